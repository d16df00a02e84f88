#!/usr/bin/env bash
# Gather the wheels that a machine with CUDA, torch, timm, transformers, lightning and pytest, but without a network,
# lacks to run `make gpu-check`: tests/gpu/wheels.sh FOLDER [PYTHON_VERSION]. There: make gpu-check ARGS="--wheels FOLDER".
set -euo pipefail
folder=${1:?give a folder for the wheels}
version=${2:-3.12}
# Dependencies of setup.cfg that are there, and those that are not, with what they need in turn.
THERE="filelock huggingface_hub lightning matplotlib numpy pandas pillow pyyaml safetensors scipy tensorboard timm tokenizers torch torchmetrics tqdm transformers"
LACKING="av>=17.1 jsonargparse>=4.42,<5 docstring-parser>=0.17 typeshed-client>=2.8.2 msgspec>=0.19 omegaconf>=2.4,<3"
mkdir -p "$folder"
for package in $LACKING; do
    python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --dest "$folder" "$package"
done
echo "beside these it takes: $THERE"
du -sh "$folder"

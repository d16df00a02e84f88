"""What the commands that run a backbone over videos share: its options, its device and precision, its output folder."""

import argparse
import hashlib
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from egovlpv2.checkpoints.weights import load_backbone
from egovlpv2.command.options import at_least
from egovlpv2.features.files import SUFFIX, read_plain
from egovlpv2.features.header import Recipe
from egovlpv2.model.backbone import Backbone

_MOST_WORKERS = 1000  # processes: each takes some 300 MB
# No text tower takes as many words, and the tokenizer's library aborts at far more; no camera gives as many frames.
_MOST = {"max_tokens": 1_000_000, "fps": 1000.0}


def add_model_options(parser: argparse.ArgumentParser, max_tokens: int | None = 30) -> None:
    """Which weights, and where and how they run; without `max_tokens`, the weights tell them."""
    parser.add_argument("--weights", required=True, help=".ckpt, .safetensors or released .pth")
    parser.add_argument("--max-tokens", type=int, default=max_tokens, help="tokens of a query" if max_tokens else
                        "tokens of the question; as many as the weights were trained with, if not given")
    parser.add_argument("--tokenizer", help="the text tower's; the checkpoint's own if not given")
    parser.add_argument("--device", help="cuda or cpu; cuda where there is one")
    parser.add_argument("--precision", choices=("32", "bf16"), help="bf16 on a GPU if not given, else 32")


def add_video_options(parser: argparse.ArgumentParser, unit: str, batch_size: int, num_workers: int) -> None:
    """How videos are laid out, and how many of their `unit`s are read at a time."""
    parser.add_argument("--chunk-seconds", type=float, default=600.0, help="length of the files of a chunked video")
    parser.add_argument("--image-fps", type=float, help="pictures a second, where a video is a folder of pictures")
    parser.add_argument("--batch-size", type=int, default=batch_size, help=f"{unit} at a time")
    parser.add_argument("--num-workers", type=at_least(0, _MOST_WORKERS), default=num_workers,
                        help="processes that decode")


def pick_device(name: str | None) -> torch.device:
    """The device that a user asked for, or else CUDA where there is one.

    Raises:
        ValueError: There is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here; leave the option "
                         "out for the first, or for the CPU where there is none")
    return device


def open_backbone(args: argparse.Namespace, num_frames: int) -> Backbone:
    """The backbone of `--weights` in eval mode, where `--device` says."""
    device = pick_device(args.device)
    return load_backbone(args.weights, num_frames=num_frames).to(device)


def precision_of(name: str | None, device: torch.device) -> AbstractContextManager[None]:
    """A context in which a model runs as `--precision` says; it can be entered many times."""
    bf16 = name == "bf16" or (name is None and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def fingerprint(path: str) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()[:16]


def require_positive(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that are zero, below, infinite, not a number, or far too large.

    Raises:
        ValueError: One is; names it.
    """
    for name in names:
        option, value = name.replace("_", "-"), getattr(args, name)
        if not 0 < value < float("inf"):  # also refuses NaN
            raise ValueError(f"--{option} {value}: give {'a finite number' if value > 0 else 'more than 0'}")
        if value > (most := _MOST.get(name, value)):
            raise ValueError(f"--{option} {value}: give {most:g} at most")


def make_folder(out: Path) -> None:
    """Makes a folder to write to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out} can't be made ({error.strerror}): give another folder") from error
    if not os.access(out, os.W_OK):
        raise ValueError(f"--out {out} can't be written to: give another folder, or change its permissions")


def make_folder_of(file: Path) -> None:
    """Makes the folder of a file to write.

    Raises:
        ValueError: It can't be made or written to, or the file is a folder itself.
    """
    if file.is_dir():
        raise ValueError(f"--out {file} is a folder: give the name of a file")
    make_folder(file.parent)


def check_same_recipe(out: Path, recipe: Recipe, queries: dict[str, list[str]]) -> None:
    """Refuses files of another recipe, and those that lack queries of their video: they would be kept as finished."""
    for path in sorted(out.glob(f"*{SUFFIX}")):
        there, asked = read_plain(path)
        if different := there.differences(recipe):
            raise ValueError(f"{path} is of another recipe (there and here: {'; '.join(different)}): write to another "
                             "folder with --out, or delete those files")
        if new := set(queries.get(path.stem, [])).difference(asked):
            raise ValueError(f"{path} lacks {len(new)} queries of its video, {min(new)!r} for one: write to another "
                             "folder with --out, or delete it")

"""`egovlpv2 show-nlq` and `show-mq`: one query, or one clip, of a run that has trained a head, as a picture."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning import LightningDataModule, LightningModule
from omegaconf import OmegaConf

from egovlpv2.command.parser import CommandParser
from egovlpv2.features.options import make_folder_of
from egovlpv2.io.files import atomic_write
from egovlpv2.io.schema import Words, check
from egovlpv2.io.yaml_files import read_yaml
from egovlpv2.viz.callbacks import NUM_FRAMES
from egovlpv2.viz.figures import png
from egovlpv2.viz.timeline import draw


@dataclass
class _Part:
    class_path: Words
    init_args: dict[str, Any]


@dataclass
class RunConfig:
    """What the `config.yaml` of a run says of its model and data."""

    model: _Part
    data: _Part


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    make_folder_of(args.out)
    config, weights = args.run / "config.yaml", args.run / "checkpoints" / "best.ckpt"
    for path in (config, weights):
        if not path.is_file():
            raise ValueError(f"{path} is missing: give the folder of a run of `make finetune-nlq` or `finetune-mq`")
    given = {name: getattr(args, name) for name in ("features", "videos", "chunk_seconds")}
    model, data = _load(config, str(weights), {name: value for name, value in given.items() if value is not None})
    model.refuse_other_features(data, model.features_before, weights)
    loader = getattr(data, f"{args.split}_dataloader")()
    if not 0 <= args.row < len(loader.dataset):
        raise ValueError(f"--row {args.row}: the {args.split} split has rows 0 to {len(loader.dataset) - 1}")
    batch = loader.collate_fn([loader.dataset[args.row]])
    with torch.inference_mode():
        drawing = model.eval().drawings(batch, 1)[0]
    with atomic_write(args.out) as draft:
        draft.write_bytes(png(draw(drawing, data.preview_frames(args.split, args.row, NUM_FRAMES))))
    print(f"{drawing.title}\nwritten: {args.out}")


def _load(config: Path, weights: str, options: dict[str, Any]) -> tuple[LightningModule, LightningDataModule]:
    """The model and the data of a run, as its configuration says.

    Raises:
        ValueError: The configuration is damaged, or is not that of a run.
    """
    content = check(OmegaConf.to_container(read_yaml(config)), RunConfig, str(config))
    model = {"class_path": content.model.class_path, "init_args": content.model.init_args | {"weights": weights}}
    data = {"class_path": content.data.class_path, "init_args": content.data.init_args | options}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model")
    parser.add_subclass_arguments(LightningDataModule, "data")
    try:
        made = parser.instantiate_classes(parser.parse_object({"model": model, "data": data}))
    except argparse.ArgumentError as error:
        raise ValueError(f"{config} is not the configuration of a run of this version: {error}") from error
    return made.model, made.data


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="egovlpv2 show-nlq|show-mq", description="Draws what a trained head finds.")
    parser.add_argument("run", type=Path, help="a run's folder, such as runs/finetune-nlq-pretrain-tiny-toy")
    parser.add_argument("--row", type=int, default=0, help="which query of NLQ, or clip of MQ, in its file's order")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--out", type=Path, default=Path("picture.png"), help="the picture, a PNG")
    parser.add_argument("--features", help="folder of the features, if not the run's")
    parser.add_argument("--videos", help="folder of the videos, for the frames, if not the run's")
    parser.add_argument("--chunk-seconds", type=float, help="length of their files, where they are folders of chunks")
    return parser

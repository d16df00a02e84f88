"""Draw what a trained head of NLQ or MQ finds, one query or clip as a picture: `egovlpv2 show-nlq`, `show-mq`."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning import LightningDataModule, LightningModule
from omegaconf import OmegaConf

from egovlpv2.arguments import check_call
from egovlpv2.io.files import atomic_write, make_folder_of, refuse_unreadable, require_suffix
from egovlpv2.io.schema import Words, check
from egovlpv2.io.yaml_files import read_yaml
from egovlpv2.types import NonNegativeInt, Seconds, Split
from egovlpv2.viz.figures import png
from egovlpv2.viz.timeline import NUM_FRAMES, draw


@dataclass
class _Part:
    class_path: Words
    init_args: dict[str, Any]


@dataclass
class RunConfig:
    """The model and the data in the `config.yaml` of a run."""

    model: _Part
    data: _Part


@dataclass(frozen=True)
class Picture:
    """A picture that was written.

    Args:
        title: Of the picture.
        out: Its file.
    """

    title: str
    out: Path

    def __str__(self) -> str:
        return f"{self.title}\nwritten: {self.out}"


def show_predictions(run: str | Path, out: str | Path = "picture.png", *, row: NonNegativeInt = 0, split: Split = "val",
                     features: str | None = None, videos: str | None = None, chunk_seconds: Seconds | None = None
                     ) -> Picture:
    """Draw one query of NLQ, or one clip of MQ, with what a trained head finds.

    Args:
        run: a run's folder, such as runs/finetune-nlq-pretrain-tiny-toy
        out: the picture, a PNG
        row: number of the query of NLQ, or the clip of MQ, in its file's order
        split: of the data
        features: folder of the features, if not the run's
        videos: folder of the videos, for the frames, if not the run's
        chunk_seconds: length of their files, where they are folders of chunks

    Raises:
        ValueError: The run, its data or the row can't be read.
    """
    check_call(show_predictions, locals())
    out = Path(out)
    require_suffix(out, ".png", "the picture")
    make_folder_of(out)
    config, weights = Path(run) / "config.yaml", Path(run) / "checkpoints" / "best.ckpt"
    for path in (config, weights):
        refuse_unreadable(path, "the folder of a run, with files of these names")
        if not path.is_file():
            raise ValueError(f"{path} is missing: give the folder of a run of `make finetune-nlq` or `finetune-mq`")
    given = {"features": features, "videos": videos, "chunk_seconds": chunk_seconds}
    model, data = _load(config, str(weights), {name: value for name, value in given.items() if value is not None})
    model.refuse_other_features(data, model.features_before, weights)
    loader = getattr(data, f"{split}_dataloader")()
    if row >= len(loader.dataset):
        raise ValueError(f"--row {row}: the {split} split has rows 0 to {len(loader.dataset) - 1}")
    batch = loader.collate_fn([loader.dataset[row]])
    with torch.inference_mode():
        drawing = model.eval().drawings(batch, 1)[0]
    with atomic_write(out) as draft:
        draft.write_bytes(png(draw([drawing], data.preview_frames(split, row, NUM_FRAMES))))
    return Picture(drawing.title, out)


def _load(config: Path, weights: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Make the model and the data module of a run, as its configuration says.

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

"""Tables of the ViTs of timm and the encoders of transformers that the towers take, or refuse by name.

    python tests/model_families.py docs/model-families.md

builds each with random weights, at its own width, patches and frame size and with its first two blocks, compares a
tower with the forward pass of the library, and writes the tables between the marks of that page.
"""

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn
from tqdm import tqdm
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)
from transformers.utils.logging import set_verbosity_error

from egovlpv2.model import text_tower, video_tower
from egovlpv2.model.encoder import TextTowerConfig, make_encoder
from egovlpv2.model.library_check import Comparison, randomize
from egovlpv2.model.text_tower import TextTower
from egovlpv2.model.video_tower import VideoTower
from egovlpv2.model.vit import VideoTowerConfig, make_vit

TIMM = [name for name in timm.list_models() if name.startswith(("vit_", "eva02_", "deit"))]
TRANSFORMERS = sorted({*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, "clip_text_model",
                       "siglip_text_model", "siglip2_text_model"})
BLOCKS = 2
MOST = 1e-4  # difference of outputs


class Row(NamedTuple):
    """What became of a model."""

    name: str
    parameters: float | None  # None if refused
    outcome: str  # how the clip or text is represented, and the difference; or the reason of the refusal


def read_video(name: str) -> Row:
    """Compare a tower with timm's ViT on one frame."""
    try:
        with torch.device("meta"):
            outline = VideoTower(VideoTowerConfig(name), 0, 8)
    except ValueError as error:
        return Row(name, None, reason(error, name))
    count = sum(p.numel() for key, p in outline.named_parameters() if "time" not in key and "temporal" not in key)
    config = VideoTowerConfig(name, {"depth": BLOCKS})
    vit = randomize(make_vit(config))
    tower = VideoTower(config, 0, 8, vit).eval()
    nn.init.zeros_(tower.temporal_embed)
    off = difference(video_tower.COMPARISON, vit, tower)
    pooled = {"token": "CLS token", "avg": "mean of patches"}.get(tower.pooling, "attention pooling")
    return Row(name, count, f"{pooled}; {off:.0e}")


def read_text(kind: str) -> Row:
    """Compare a tower with transformers' encoder of its default width on two texts."""
    config = TextTowerConfig({"model_type": kind})
    try:
        with torch.device("meta"):
            outline = TextTower(config, 0, 8)
    except ValueError as error:
        return Row(kind, None, reason(error, kind))
    names = config.resolve().attribute_map
    config = TextTowerConfig({"model_type": kind, names.get("num_hidden_layers", "num_hidden_layers"): BLOCKS})
    model: Any = randomize(make_encoder(config))
    tower = TextTower(config, 0, 8, model).eval()
    off = difference(text_tower.COMPARISON, model, tower)
    pooled = {"first": "first token", "eos": "first EOS", "last": "last position and `head`"}[tower.family.pooling]
    return Row(kind, sum(p.numel() for p in outline.parameters()), f"{pooled}; {off:.0e}")


@torch.no_grad()
def difference(comparison: Comparison, model: nn.Module, tower: nn.Module) -> float:
    """The largest difference of the outputs, at most `MOST`."""
    inputs = comparison.example(model, tower)
    off = float((comparison.theirs(model, tower, inputs) - comparison.ours(tower, inputs)).abs().max())
    assert off <= MOST, off
    return off


def reason(error: ValueError, name: str) -> str:
    """The part of an error message after the name of the model."""
    assert name in str(error) or "transformers knows no such configuration" in str(error), error
    text = re.sub(r"^.*? is not supported: |^text\.arch: |^video: ", "", str(error)).replace("|", "/")
    advice = (r"; use roberta, .*$|, and the video tower knows .*$|"
              r"video: timm can't build \S+ with overrides \{[^}]*\}: ")
    return re.sub(advice, "", text)


def table(rows: list[Row]) -> Iterator[str]:
    """Lines of both tables of a library."""
    taken, refused = [row for row in rows if row.parameters], [row for row in rows if row.parameters is None]
    yield from (f"{len(taken)} agree:", "",
                "| name | parameters | state that represents the input; largest difference |", "|---|---|---|")
    yield from (f"| `{row.name}` | {row.parameters / 1e6:,.0f} M | {row.outcome} |" for row in taken if row.parameters)
    yield from ("", f"{len(refused)} are refused:", "", "| name | reason |", "|---|---|")
    yield from (f"| `{row.name}` | {row.outcome} |" for row in refused)


def main(page: Path) -> None:
    """Write the tables into a page."""
    warnings.simplefilter("ignore")
    logging.disable()
    set_verbosity_error()
    text = page.read_text()
    for library, names, read in (("timm", TIMM, read_video), ("transformers", TRANSFORMERS, read_text)):
        torch.manual_seed(0)
        rows = [read(name) for name in tqdm(names, desc=library)]
        begin, end = f"<!-- {library} begins -->", f"<!-- {library} ends -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n" + "\n".join(table(rows)) + f"\n{end}{rest.split(end)[1]}"
    page.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

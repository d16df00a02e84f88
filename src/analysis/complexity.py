"""Parameters and multiply-accumulates of a model, by part and by objective: `egovlpv2 complexity`.

They are counted on the meta device, which computes nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from egovlpv2.arguments import check_call
from egovlpv2.batch import Text
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.outputs import Top, Trunk
from egovlpv2.types import Count

MASKED_SHARE = 0.15


def gmacs(run: Callable[[], Any]) -> tuple[float, Any]:
    """Billions of multiply-accumulates of a call (torch counts two operations for each), and its result."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        result = run()
    return counter.get_total_flops() / 2e9, result


def read_model_config(path: str | Path) -> BackboneConfig:
    """Read the backbone of a `conf/model/*.yaml`, without first weights.

    Raises:
        ValueError: The file is missing or is not a model's.
    """
    if not Path(path).is_file():
        raise ValueError(f"--config {path} is missing: give a conf/model/*.yaml (`egovlpv2 configs --out conf` copies "
                         "them)")
    parser = ArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(BackboneConfig, "model.init_args.backbone", as_group=False)
    plain = parser.parse_args(["--config", str(path)]).model.init_args.backbone.as_dict()
    return BackboneConfig.from_dict(BackboneConfig.from_dict(plain).to_dict())


def parameters_by_part(backbone: Backbone) -> dict[str, int]:
    """Numbers of parameters; cross-attention counts apart from the tower it sits in."""
    parts: dict[str, int] = {}
    for name, parameter in backbone.named_parameters():
        part = "cross_attention" if ".fusion." in name else name.split(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts | {"total": sum(parts.values())}


def macs_by_objective(backbone: Backbone, video: Tensor, text: Text) -> dict[str, float]:
    """Count GMACs of the forward pass of a pre-training instance as `tasks.pretrain` computes it.

    The shared trunk counts once; each objective adds its own part. Only masked tokens are decoded.
    """
    num_frames, masked_tokens = video.shape[1], math.ceil(MASKED_SHARE * text["input_ids"].shape[1])

    def with_attention(trunk: Trunk) -> Trunk:
        return trunk._replace(attended=backbone.attend_first(trunk.video, num_frames))

    shared, trunk = gmacs(lambda: with_attention(backbone.trunk(video, text, gate=False)))

    def ego_nce() -> None:
        top = backbone.top(trunk, num_frames, gate=False, video_output="cls")
        backbone.project_video(top.video_cls)
        backbone.project_text(top.text_cls)

    def open_trunk() -> Trunk:
        if backbone.shares_trunk:
            return trunk
        return with_attention(trunk._replace(video=backbone.trunk_video(video, gate=True)))

    def vtm() -> None:
        backbone.vtm_logits_from(backbone.top(fused, num_frames, True, "cls"))

    def mlm() -> None:
        masked = Trunk(fused.video, *backbone.trunk_text(text), fused.attended)
        states = backbone.top(masked, num_frames, True, "none").text
        assert states is not None
        backbone.mlm_logits_from(states[:, :masked_tokens])

    more, fused = gmacs(open_trunk)
    return {"shared trunk": shared + more} | {f.__name__: gmacs(f)[0] for f in (ego_nce, vtm, mlm)}


def macs_video_once(backbone: Backbone, video: Tensor, text: Text) -> float:
    """GMACs of the same instance when nothing of a video is computed twice that no text can change, and the rest is as
    in `macs_unshared`: words and all outputs, for each objective.
    """
    num_frames = video.shape[1]

    def run() -> None:
        closed = backbone.trunk_video(video)
        opened = closed if backbone.shares_trunk else backbone.trunk_video(video, gate=True)
        for states, gate in ((closed, False), (opened, True), (opened, True)):
            top = backbone.top(Trunk(states, *backbone.trunk_text(text)), num_frames, gate)
        _read_all(backbone, top)

    return gmacs(run)[0]


def _read_all(backbone: Backbone, top: Top) -> None:
    assert top.text is not None
    backbone.project_video(top.video_cls)
    backbone.project_text(top.text_cls)
    backbone.vtm_logits_from(top)
    backbone.mlm_logits_from(top.text)


def macs_unshared(backbone: Backbone, video: Tensor, text: Text) -> float:
    """GMACs of the same instance when each objective runs a whole pass and every output is computed."""
    num_frames = video.shape[1]

    def run() -> None:
        for gate in (False, True, True):
            top = backbone.top(backbone.trunk(video, text, gate), num_frames, gate)
        _read_all(backbone, top)

    return gmacs(run)[0]


def complexity(config: BackboneConfig, num_frames: int = 4, num_tokens: int = 15) -> dict[str, Any]:
    """Count parameters and GMACs of a configuration, for a clip of `num_frames` and a text of `num_tokens`."""
    with torch.device("meta"):
        backbone = Backbone(config).eval()
        size = backbone.video_tower.patch_embed.img_size
        video = torch.empty(1, num_frames, 3, *size)
        text = Text(input_ids=torch.zeros(1, num_tokens, dtype=torch.long),
                    attention_mask=torch.ones(1, num_tokens))
    objectives = macs_by_objective(backbone, video, text)
    parts = parameters_by_part(backbone)
    return {
        "parameters": parts["total"], "parameters_by_part": parts, "frames": num_frames, "tokens": num_tokens,
        "pixels": size[0],
        "gmacs": {"unshared": macs_unshared(backbone, video, text),
                  "video_once": macs_video_once(backbone, video, text), "ours": sum(objectives.values()),
                  "by_objective": objectives},
    }


@dataclass(frozen=True)
class ComplexityReport:
    """Parameters and GMACs of a model.

    Args:
        numbers: As `complexity` returns them.
        text_attends_to: The video layer that the text attends to.
        as_json: Whether it prints as JSON instead of a table.
    """

    numbers: dict[str, Any]
    text_attends_to: str
    as_json: bool = False

    def __str__(self) -> str:
        return dumps(self.numbers, indent=2) if self.as_json else _table(self.numbers, self.text_attends_to)


def count_complexity(config: str | Path, *, num_frames: Count = 4, num_tokens: Count = 15,
                     text_attends_to: Literal["current", "previous"] | None = None, json: bool = False
                     ) -> ComplexityReport:
    """Count parameters and GMACs of a model, by part and by objective.

    Args:
        config: a conf/model/*.yaml
        num_frames: frames of a clip
        num_tokens: tokens of a text
        text_attends_to: instead of the file's
        json: print JSON instead of a table

    Raises:
        ValueError: An argument doesn't allow it, or the file can't be read.
    """
    check_call(count_complexity, locals())
    model = read_model_config(config)
    if text_attends_to is not None:
        model.text_attends_to = text_attends_to
    return ComplexityReport(complexity(model, num_frames, num_tokens), model.text_attends_to, json)


def _table(report: dict[str, Any], text_attends_to: str) -> str:
    macs = report["gmacs"]
    rows = [f"{name:<26}{count / 1e6:10.2f} M parameters" for name, count in report["parameters_by_part"].items()]
    rows += ["", f"one pre-training instance: {report['frames']} frames of {report['pixels']} px, {report['tokens']} "
             f"tokens, text attends to the {text_attends_to} video layer"]
    rows += [f"{name:<26}{value:10.2f} GMACs" for name, value in macs["by_objective"].items()]
    rows += [f"{'total':<26}{macs['ours']:10.2f} GMACs ({macs['unshared']:.2f} if the objectives shared nothing, "
             f"{macs['video_once']:.2f} if just the video)"]
    return "\n".join(rows)

"""What a model costs: parameters and multiply-accumulates, by part and by objective, counted on the meta device."""

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from egovlpv2.batch import Text
from egovlpv2.command.options import at_least
from egovlpv2.command.parser import CommandParser
from egovlpv2.model.backbone import Backbone, Top, Trunk
from egovlpv2.model.config import BackboneConfig

MASKED_SHARE = 0.15


def gmacs(run: Callable[[], Any]) -> tuple[float, Any]:
    """Billions of multiply-accumulates of a call (torch counts two operations for each), and its result."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        result = run()
    return counter.get_total_flops() / 2e9, result


def read_model_config(path: str) -> BackboneConfig:
    """The backbone of a `conf/model/*.yaml`, without first weights."""
    parser = ArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(BackboneConfig, "model.init_args.backbone", as_group=False)
    plain = parser.parse_args(["--config", path]).model.init_args.backbone.as_dict()
    return BackboneConfig.from_dict(BackboneConfig.from_dict(plain).to_dict())


def parameters_by_part(backbone: Backbone) -> dict[str, int]:
    """Numbers of parameters; cross-attention counts apart from the tower it sits in."""
    parts: dict[str, int] = {}
    for name, parameter in backbone.named_parameters():
        part = "cross_attention" if ".fusion." in name else name.split(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    return parts | {"total": sum(parts.values())}


def macs_by_objective(backbone: Backbone, video: Tensor, text: Text) -> dict[str, float]:
    """GMACs of the forward pass of one pre-training instance, as `tasks.pretrain` computes it: the shared trunk once,
    then what each objective adds. Of the words, the share that is masked is decoded.
    """
    num_frames, words = video.shape[1], math.ceil(MASKED_SHARE * text["input_ids"].shape[1])
    shared, trunk = gmacs(lambda: backbone.trunk(video, text, gate=False))

    def ego_nce() -> None:
        top = backbone.top(trunk, num_frames, gate=False, video_output="cls")
        backbone.project_video(top.video[:, 0])
        backbone.project_text(top.text[:, 0])

    def open_trunk() -> Trunk:
        return trunk if backbone.shares_trunk else trunk._replace(video=backbone.trunk_video(video, gate=True))

    def vtm() -> None:
        backbone.vtm_logits_from(backbone.top(fused, num_frames, True, "cls"))

    def mlm() -> None:
        masked = Trunk(fused.video, *backbone.trunk_text(text))
        backbone.mlm_logits_from(backbone.top(masked, num_frames, True, "none").text[:, :words])

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
    backbone.project_video(top.video[:, 0])
    backbone.project_text(top.text[:, 0])
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


def complexity(config: BackboneConfig, num_frames: int = 4, words: int = 15) -> dict[str, Any]:
    """Parameters and GMACs of a configuration, for one clip of `num_frames` and one text of `words` tokens."""
    with torch.device("meta"):
        backbone = Backbone(config).eval()
        size = backbone.video_tower.patch_embed.img_size
        video = torch.empty(1, num_frames, 3, *size)
        text = Text(input_ids=torch.zeros(1, words, dtype=torch.long), attention_mask=torch.ones(1, words))
    objectives = macs_by_objective(backbone, video, text)
    parts = parameters_by_part(backbone)
    return {
        "parameters": parts["total"], "parameters_by_part": parts, "frames": num_frames, "words": words,
        "pixels": size[0],
        "gmacs": {"unshared": macs_unshared(backbone, video, text),
                  "video_once": macs_video_once(backbone, video, text), "ours": sum(objectives.values()),
                  "by_objective": objectives},
    }


def main(argv: list[str] | None = None) -> None:
    """`egovlpv2 complexity --config conf/model/base.yaml`."""
    parser = CommandParser("egovlpv2 complexity", description="Parameters and GMACs of a model.")
    parser.add_argument("--config", required=True, help="a conf/model/*.yaml")
    parser.add_argument("--num-frames", type=at_least(1), default=4)
    parser.add_argument("--words", type=at_least(1), default=15)
    parser.add_argument("--text-attends-to", choices=["current", "previous"], help="instead of the file's")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    config = read_model_config(args.config)
    if args.text_attends_to:
        config.text_attends_to = args.text_attends_to
    report = complexity(config, args.num_frames, args.words)
    print(json.dumps(report, indent=2) if args.json else _table(report, config))


def _table(report: dict[str, Any], config: BackboneConfig) -> str:
    macs = report["gmacs"]
    rows = [f"{name:<26}{count / 1e6:10.2f} M parameters" for name, count in report["parameters_by_part"].items()]
    rows += ["", f"one pre-training instance: {report['frames']} frames of {report['pixels']} px, {report['words']} "
             f"words, text attends to the {config.text_attends_to} video layer"]
    rows += [f"{name:<26}{value:10.2f} GMACs" for name, value in macs["by_objective"].items()]
    rows += [f"{'total':<26}{macs['ours']:10.2f} GMACs ({macs['unshared']:.2f} if the objectives shared nothing, "
             f"{macs['video_once']:.2f} if just the video)"]
    return "\n".join(rows)

"""Checkpoints of EgoVLP, LaViLa and AVION load as dual encoders that compute what their own code computes."""

import argparse
import logging
from pathlib import Path
from typing import Any

import neighbours
import pytest
import torch
from helpers import ROOT
from omegaconf import OmegaConf
from torch import Tensor

from egovlpv2.batch import Text
from egovlpv2.checkpoints import convert
from egovlpv2.checkpoints.conversion import convert_checkpoint
from egovlpv2.checkpoints.neighbours import layout_of
from egovlpv2.checkpoints.weights import load_backbone, read_weights
from egovlpv2.features.encoder import FeatureEncoder
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.egomcq import EgoMCQ
from egovlpv2.tasks.ek100 import EK100
from egovlpv2.tasks.pretrain import Pretrain
from egovlpv2.tasks.taskqa import TaskQA

RED = pytest.approx(108.3272985 / 255, abs=1e-7)  # mean of red in LaViLa and AVION; CLIP's is 0.4815
KINDS = {  # kind of `convert`, model of timm, pixel mean of red
    "egovlp": ("egovlp", "vit_base_patch16_224", 0.485), "lavila of egovlp": ("lavila", "vit_base_patch16_224", 0.485),
    "lavila": ("lavila", "vit_base_patch16_clip_quickgelu_224", RED),
    "lavila distilbert": ("lavila", "vit_base_patch16_clip_quickgelu_224", RED),
    "avion": ("avion", "vit_base_patch16_clip_224", RED),
    "avion flash": ("avion", "vit_base_patch16_clip_224", RED),
}
EOS = neighbours.TOKENS - 1


def write(state: dict[str, Tensor], path: Path, prefix: str = "module.") -> Path:
    """Writes a checkpoint as the neighbours' training does, with objects beside the tensors."""
    torch.save({"epoch": 4, "state_dict": {f"{prefix}{name}": tensor for name, tensor in state.items()},
                "optimizer": {"state": {0: {"step": 7}}, "param_groups": [{"lr": 3e-5, "params": [0]}]},
                "scaler": {}, "best_acc1": 31.0, "args": argparse.Namespace(model="CLIP", lr=3e-5)}, path)
    return path


def example(frames: int) -> tuple[Tensor, Text]:
    """Clips, and texts of the whole context, the second padded as CLIP's tokenizer of OpenAI does it."""
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(2, frames, 3, neighbours.SIDE, neighbours.SIDE, generator=generator)
    ids = torch.randint(1, EOS, (2, neighbours.CONTEXT), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, -1] = ids[1, 6] = EOS
    ids[1, 7:], mask[1, 7:] = 0, 0
    return video, Text(input_ids=ids, attention_mask=mask)


def pooled_text(backbone: Backbone, text: Text) -> Tensor:
    return backbone.text_tower.pool(backbone.text_features(text), backbone.text_tower.mask(text))


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_neighbours_own_code(tmp_path: Path, kind: str, frames: int,
                                                      caplog: pytest.LogCaptureFixture) -> None:
    state = neighbours.make(kind, frames)
    with caplog.at_level(logging.WARNING):
        backbone = load_backbone(write(state, tmp_path / "theirs.pt"), num_frames=frames)
    assert "theirs.pt is a dual encoder without fusion" in caplog.text
    video, text = example(frames)
    expected = neighbours.forward(kind, state, video, text["input_ids"], text["attention_mask"])
    found = {"clip": backbone.video_features(video), "text": pooled_text(backbone, text),
             "embed_clip": backbone.embed_video(video), "embed_text": backbone.embed_text(text)}
    for name, values in found.items():
        assert (values - expected[name]).abs().max() < 1e-5, name
    config = backbone.config
    assert (config.fusion, config.num_fused_layers, config.video.norm_eps) == ("none", 0, 1e-6)
    assert backbone.text_tower.norm_eps == (1e-12 if "ego" in kind or "distil" in kind else 1e-5)
    assert (config.video.name, config.video.pixel_mean[0]) == KINDS[kind][1:]
    assert not [name for name in backbone.state_dict() if "fus" in name or "head" in name.split(".")[0]]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["egovlp", "lavila", "avion"])
def test_one_frame_takes_the_first_place_in_time(tmp_path: Path, kind: str) -> None:
    state = neighbours.make(kind, 4)
    backbone = load_backbone(write(state, tmp_path / "theirs.pth"), num_frames=1)
    for name in ("video_model.temporal_embed", "visual.temporal_embed", "visual.temporal_embedding"):
        if name in state:
            state[name] = state[name][:1] if state[name].ndim == 2 else state[name][:, :1]
    video, text = example(1)
    expected = neighbours.forward(kind, state, video, text["input_ids"], text["attention_mask"])
    torch.testing.assert_close(backbone.embed_video(video), expected["embed_clip"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_convert_takes_a_state_dict_with_any_prefix(tmp_path: Path, kind: str) -> None:
    state = neighbours.make(kind, 4)
    _, ours = read_weights(write(state, tmp_path / "theirs.pth", prefix=""))
    found = convert(KINDS[kind][0], {f"module.{name}": tensor for name, tensor in state.items()})
    assert found.keys() == ours.keys() and all(torch.equal(found[name], ours[name]) for name in ours)
    others = {"egovlp", "lavila", "avion"} - {KINDS[kind][0]}
    for other in others:
        with pytest.raises(ValueError, match="these are not weights of a dual encoder of"):
            convert(other, state)


def test_half_precision_and_a_bare_state_dict_are_taken(tmp_path: Path) -> None:
    state = neighbours.make("lavila of egovlp", 4)
    torch.save({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
               tmp_path / "half.pth")
    backbone = load_backbone(tmp_path / "half.pth")
    assert backbone.video_projector[0].weight.dtype == torch.float32
    torch.testing.assert_close(backbone.video_projector[0].weight.data, state["image_projection.0.weight"], rtol=1e-3,
                               atol=1e-3)


def test_a_converted_file_gives_the_same_backbone(tmp_path: Path) -> None:
    source = write(neighbours.make("lavila", 4), tmp_path / "theirs.pth")
    convert_checkpoint(source, tmp_path / "ours.safetensors")
    theirs, ours = load_backbone(source), load_backbone(tmp_path / "ours.safetensors")
    assert ours.config == theirs.config and ours.config.video.norm_pre_eps == 1e-5
    assert ours.video_tower.norm_pre.eps == 1e-5 and ours.video_tower.norm.eps == 1e-6
    video, _ = example(4)
    assert torch.equal(theirs.embed_video(video), ours.embed_video(video))


MISSING = {"egovlp": "video_model.blocks.1.norm3.weight", "lavila": "transformer.resblocks.1.ln_2.bias",
           "avion": "visual.ln_pre.weight"}


@pytest.mark.parametrize("kind", MISSING)
def test_wrong_keys_and_shapes_are_named(tmp_path: Path, kind: str) -> None:
    state, path = neighbours.make(kind, 4), tmp_path / "theirs.pth"
    name = MISSING[kind]
    for changed, message in (
        ({key: value for key, value in state.items() if key != name}, r"missing \w+_tower"),
        (state | {"head.weight": torch.ones(2)}, "holds no whole .* weights: head.weight is not a key of a released"),
        (state | {name: torch.ones(5)}, r"is \(5,\) in the file"),
    ):
        with pytest.raises(ValueError, match=f"theirs.pth.*{message}") as found:
            load_backbone(write(changed, path))
        assert "\n" not in str(found.value)


SIZED = {"egovlp": "vid_proj.0.weight", "lavila": "token_embedding.weight", "avion": "textual.positional_embedding"}


@pytest.mark.parametrize("kind", SIZED)
@pytest.mark.parametrize("value", [None, torch.ones(())])
def test_what_sizes_are_derived_from_is_named(tmp_path: Path, kind: str, value: Tensor | None) -> None:
    state = neighbours.make(kind, 4)
    state = {name: tensor for name, tensor in (state | {SIZED[kind]: value}).items() if tensor is not None}
    with pytest.raises(ValueError, match=f"theirs.pth holds no EgoVLPv2 weights .*it lacks {SIZED[kind]}, so it is"):
        load_backbone(write(state, tmp_path / "theirs.pth"))
    with pytest.raises(ValueError, match=f"{SIZED[kind]} is missing or has another shape"):
        convert(kind, state)


@pytest.mark.parametrize("kind, name, value, message", [
    ("lavila", "transformer.resblocks.0.attn.in_proj_weight", torch.ones(4, 4), "doesn't hold queries, keys and"),
    ("lavila", "transformer.resblocks.0.attn.in_proj_bias", torch.ones(()), "doesn't hold queries, keys and values"),
    ("avion flash", "visual.conv1.weight", torch.ones(128, 190), "its rows aren't square patches"),
    ("avion", "visual.conv1.weight", torch.ones(0, 3, 8, 8), "embed_dim: Expected `int` >= 1"),
    ("avion", "visual.temporal_embedding", torch.ones(()), r"temporal_embed is \(1, 1, 1\) in the file"),
    ("avion", "visual.transformer.resblocks.0.mlp.fc1.weight", torch.ones(512, 128), "under another name too"),
    ("lavila", "visual.blocks.0.alpha_timeattn", torch.ones(()), "alpha_timeattn is not a key of a released"),
])
def test_odd_tensors_are_named(tmp_path: Path, kind: str, name: str, value: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"theirs.pth.*{message}"):
        load_backbone(write(neighbours.make(kind, 4) | {name: value}, tmp_path / "theirs.pth"))


def test_files_of_neighbours_without_both_towers_are_still_described(tmp_path: Path) -> None:
    narrator = neighbours.space_time("visual.", 4, True) | {"text_decoder.lm_head.weight": torch.ones(2, 2)}
    classifier = neighbours.avion_video(4, False) | {"fc_cls.weight": torch.ones(2, 2)}
    for state in (narrator, classifier):
        with pytest.raises(ValueError, match=r"holds no EgoVLPv2 weights \(it looks like"):
            load_backbone(write(state, tmp_path / "theirs.pth"))


@pytest.fixture
def dual(tmp_path: Path) -> Path:
    return write(neighbours.make("egovlp", 4), tmp_path / "theirs.pth")


def test_the_open_gate_is_refused_by_name(dual: Path) -> None:
    backbone = load_backbone(dual)
    video, text = example(4)
    for run in (lambda: backbone.vtm_logits(video, text), lambda: backbone.mlm_logits(video, text),
                lambda: backbone.fused_features(video, text)):
        with pytest.raises(ValueError, match="needs the gate open, and this backbone is a dual encoder") as found:
            run()
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["trunk", "fused", "transformed"])
def test_features_of_the_open_gate_are_refused_by_name(dual: Path, kind: str) -> None:
    class Recipe:
        pass

    recipe: Any = Recipe()
    recipe.kind = kind
    with pytest.raises(ValueError, match=f"the kind {kind} needs the gate open"):
        FeatureEncoder(load_backbone(dual), recipe)


def test_weights_without_fusion_do_not_go_into_a_backbone_with_fusion(dual: Path) -> None:
    plain, _ = read_weights(dual)
    config = BackboneConfig.from_dict(plain)
    assert EgoMCQ(config, str(dual)).scores == ("dual",)  # the only score that it has
    with pytest.raises(ValueError, match="theirs.pth is a dual encoder without fusion, and its weights don't fit"):
        EgoMCQ(BackboneConfig.from_dict(plain | {"fusion": "backbone", "num_fused_layers": 1}), str(dual))


def test_tasks_that_need_the_open_gate_are_refused_by_name(dual: Path) -> None:
    config = BackboneConfig.from_dict(read_weights(dual)[0])
    for task, options, message in ((Pretrain, {}, "mlm_weight=0.25 and vtm_weight=0.5"),
                                   (EK100, {"rerank": 5}, "rerank=5"), (TaskQA, {"num_answers": 3}, "EgoTaskQA")):
        with pytest.raises(ValueError, match=f"{message} needs the gate open, and this backbone is a dual encoder"):
            task(config, OptimizerConfig(), weights=str(dual), **options)
    assert EK100(config, OptimizerConfig(), weights=str(dual)).rerank == 0


SIZES = {"DIM": 768, "WIDTH": 256, "PATCH": 16, "SIDE": 224, "LAYERS": 12}
DISTILBERT = {"TEXT_DIM": 768, "TEXT_LAYERS": 6, "TEXT_MLP": 3072, "TOKENS": 30522, "CONTEXT": 512}
CLIP = {"TEXT_DIM": 512, "TEXT_LAYERS": 12, "TOKENS": 49408, "CONTEXT": 77}


@pytest.mark.parametrize("kind", ["egovlp", "lavila", "avion"])
def test_configs_of_neighbours_are_those_of_their_released_sizes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (SIZES | (DISTILBERT if kind == "egovlp" else CLIP)).items():
        monkeypatch.setattr(neighbours, name, size)
    plain = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "model" / f"{kind}.yaml").model.init_args.backbone)
    with torch.device("meta"):
        state = neighbours.make(kind, 4)
        layout = layout_of(state)
        assert layout is not None
        theirs, ours = (Backbone(BackboneConfig.from_dict(config)) for config in (layout.config(state), plain))
    assert theirs.traits == ours.traits
    shapes = [{name: tensor.shape for name, tensor in module.state_dict().items()} for module in (theirs, ours)]
    assert shapes[0] == shapes[1] == {name: tensor.shape for name, tensor in layout.convert(state).items()}
    assert theirs.config.text.tokenizer == ours.config.text.tokenizer
    assert theirs.text_tower.eos_id == ours.text_tower.eos_id

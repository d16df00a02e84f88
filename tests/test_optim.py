"""Every parameter learns, at the rate and with the decay of its kind."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from egovlpv2.checkpoints import convert
from egovlpv2.heads import VSLNet
from egovlpv2.model.backbone import Backbone
from egovlpv2.optim import OptimizerConfig, freeze_text, lr_factor, parameter_groups

GOLDEN = Path(__file__).parent / "golden"
# Parts of the names of what the authors' optimizers don't decay.
SPARED = {
    "egovlpv2": ("bias", "LayerNorm.bias", "LayerNorm.weight", "norm.bias", "norm.weight", "norm1.bias",
                 "norm1.weight", "norm2.bias", "norm2.weight"),
    "vslnet": ("bias", "layer_norm", "LayerNorm"),
}


def test_groups_of_the_paper(small_config) -> None:
    backbone = Backbone(small_config(fusion_cls="own"))
    names = {id(p): n for n, p in backbone.named_parameters()}
    groups = {g["name"]: g for g in parameter_groups(backbone, OptimizerConfig())}
    members = {key: {names[id(p)] for p in group["params"]} for key, group in groups.items()}
    assert sum(len(m) for m in members.values()) == len(names) == len(set().union(*members.values()))
    assert {key: (g["lr"], g["weight_decay"]) for key, g in groups.items()} == {
        "backbone": (3e-5, 0.01), "backbone, no decay": (3e-5, 0.0),
        "new layers": (12e-5, 0.01), "new layers, no decay": (12e-5, 0.0), "alphas": (12e-5, 0.0),
    }
    assert "video_tower.blocks.0.attn.qkv.weight" in members["backbone"]
    assert {"video_tower.norm.bias", "video_tower.pos_embed", "fused_cls_token"} <= members["backbone, no decay"]
    assert {"video_tower.blocks.2.fusion.query.weight", "match_head.classifier.weight",
            "text_projector.0.weight"} <= members["new layers"]
    gates = {f"{tower}_tower.blocks.{i}.fusion.alpha" for tower in ("video", "text") for i in (1, 2)}
    assert members["alphas"] == gates


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_lower_text_layers_are_frozen_with_the_embeddings(small_config, layers: int) -> None:
    backbone = Backbone(small_config())
    freeze_text(backbone.text_tower, layers)
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    parts = ("text_tower.embeddings.", *(f"text_tower.blocks.{i}." for i in range(layers))) if layers else ()
    own = [name for name, _ in backbone.named_parameters() if "fusion" not in name]
    assert frozen == {name for name in own if name.startswith(parts)}


def test_more_frozen_layers_than_there_are_is_an_error(small_config) -> None:
    with pytest.raises(ValueError, match="optimizer.frozen_text_layers=4: the text tower has 3 layers"):
        freeze_text(Backbone(small_config()).text_tower, 4)
    with pytest.raises(ValueError, match="optimizer.frozen_text_layers=-1: give 0 or more"):
        OptimizerConfig(frozen_text_layers=-1)


def decayed(module: nn.Module, config: OptimizerConfig) -> dict[str, bool]:
    names = {id(p): n for n, p in module.named_parameters()}
    groups = parameter_groups(module, config)
    assert {group["weight_decay"] for group in groups} <= {0.0, config.weight_decay}
    return {names[id(p)]: group["weight_decay"] > 0 for group in groups for p in group["params"]}


@pytest.mark.parametrize("kind", SPARED)
def test_what_decays_is_what_the_authors_rule_lets_decay_by_their_names(small_config, kind: str) -> None:
    layout = json.loads((GOLDEN / f"{kind}_state_layout.json").read_text())
    theirs = {name: torch.full([1] * len(shape), not any(part in name for part in SPARED[kind]))
              for name, shape in layout.items()}
    wanted = {name: bool(flag.all()) for name, flag in convert(kind, theirs).items()}
    module = VSLNet() if kind == "vslnet" else Backbone(
        small_config(depth=12, num_fused_layers=6, fusion_cls="own", text_attends_to="previous"))
    assert decayed(module, OptimizerConfig(no_decay="released")) == wanted
    assert 0.2 < sum(wanted.values()) / len(wanted) < 0.6


def test_all_parameters_decay_where_nothing_is_exempt(small_config) -> None:
    groups = parameter_groups(Backbone(small_config()), OptimizerConfig(no_decay="none", weight_decay=0.3))
    assert {group["name"]: group["weight_decay"] for group in groups} == {
        "backbone": 0.3, "new layers": 0.3, "alphas": 0.3}


def test_vectors_learn_at_a_rate_of_their_own() -> None:
    config = OptimizerConfig(lr=2e-6, vector_factor=0.024, no_decay="none", weight_decay=0.1)
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    names = {id(p): n for n, p in layer.named_parameters()}
    groups = parameter_groups(layer, config, "head")
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in groups} == {
        "head": (2e-6, 0.1), "head, vectors": (pytest.approx(4.8e-8), 0.1)}
    vectors = {names[id(p)] for group in groups if group["name"] == "head, vectors" for p in group["params"]}
    assert vectors == {name for name in names.values() if "bias" in name or "norm" in name}
    both = {group["name"] for group in parameter_groups(layer, OptimizerConfig(vector_factor=0.5), "head")}
    assert both == {"head", "head, vectors, no decay"}


def test_frozen_parameters_are_in_no_group(small_config) -> None:
    backbone = Backbone(small_config())
    backbone.video_tower.requires_grad_(False)
    count = sum(p.numel() for g in parameter_groups(backbone, OptimizerConfig()) for p in g["params"])
    assert count == sum(p.numel() for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize("decay, middle", [("linear", 0.5), ("cosine", 0.5)])
def test_schedule(decay: str, middle: float) -> None:
    factors = [lr_factor(step, 10, 110, decay, end=0.0) for step in range(111)]
    assert factors[0] == pytest.approx(1 / 11) and factors[10] == 1 and max(factors) == 1
    assert factors[60] == pytest.approx(middle) and factors[110] == pytest.approx(0, abs=1e-9)
    assert factors[:11] == sorted(factors[:11]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert lr_factor(110, 10, 110, decay, end=0.01) == pytest.approx(0.01)
    assert lr_factor(35, 10, 110, "cosine", 0.0) > lr_factor(35, 10, 110, "linear", 0.0)

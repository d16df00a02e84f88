"""Every parameter learns, at the rate and with the decay of its kind."""

import pytest
from egovlpv2.model.backbone import Backbone
from egovlpv2.optim import OptimizerConfig, lr_factor, parameter_groups


def test_groups_of_the_paper(small_config) -> None:
    backbone = Backbone(small_config(fusion_cls="own"))
    names = {id(p): n for n, p in backbone.named_parameters()}
    groups = {g["name"]: g for g in parameter_groups(backbone, OptimizerConfig())}
    members = {key: {names[id(p)] for p in group["params"]} for key, group in groups.items()}
    assert sum(len(m) for m in members.values()) == len(names) == len(set().union(*members.values()))
    assert {key: (g["lr"], g["weight_decay"]) for key, g in groups.items()} == {
        "backbone": (3e-5, 0.01), "backbone, no decay": (3e-5, 0.0),
        "new layers": (12e-5, 0.01), "new layers, no decay": (12e-5, 0.0), "gates": (12e-5, 0.0),
    }
    assert "video_tower.blocks.0.attn.qkv.weight" in members["backbone"]
    assert {"video_tower.norm.bias", "video_tower.pos_embed", "fused_cls_token"} <= members["backbone, no decay"]
    assert {"video_tower.blocks.2.fusion.query.weight", "match_head.classifier.weight",
            "text_projector.0.weight"} <= members["new layers"]
    gates = {f"{tower}_tower.blocks.{i}.fusion.alpha" for tower in ("video", "text") for i in (1, 2)}
    assert members["gates"] == gates


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

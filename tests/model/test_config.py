"""A configuration has the paper's defaults and survives the way through a checkpoint."""

import json
from dataclasses import asdict

import pytest

from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.vit import VideoTowerConfig


def test_defaults_are_the_papers() -> None:
    config = BackboneConfig()
    assert (config.fusion, config.num_fused_layers, config.alpha) == ("backbone", 6, None)
    assert (config.text_attends_to, config.fusion_cls, config.projector) == ("current", "shared", [4096] * 3)
    assert config.gradient_checkpointing is False
    assert config.video == VideoTowerConfig() and config.text == TextTowerConfig()
    config.projector.append(1)
    assert BackboneConfig().projector == [4096] * 3  # not shared between configurations


def test_a_checkpoint_keeps_all_but_first_weights_and_ways_of_computing() -> None:
    video = VideoTowerConfig("vit_small_patch16_224", {"depth": 3}, "vit.pth", 8, 1e-6, 0.1, [0.1] * 3, [0.2] * 3,
                             "joint", 1e-4)
    text = TextTowerConfig({"model_type": "bert", "hidden_size": 8}, "folder", "tokens")
    config = BackboneConfig(video, text, "backbone", 2, 0.5, "previous", "own", [16], True, True, True)
    plain = config.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["video"]["init"] is None and plain["text"]["init"] is None
    assert (config.video.init, config.text.init) == ("vit.pth", "folder")  # as it was
    again = BackboneConfig.from_dict(plain)
    video.init = text.init = None
    config.gradient_checkpointing = config.compile = False
    assert again == config
    assert asdict(again) == plain | {"compile": False, "video": plain["video"] | {"position_std": 0.02}}


@pytest.mark.parametrize("impossible", [{"alpha": 0.5}, {"alpha": 0.0}, {"fusion_cls": "own"}])
def test_a_stack_has_no_gates(impossible: dict) -> None:
    with pytest.raises(ValueError, match="stacked has neither gates nor a CLS token"):
        BackboneConfig(fusion="stacked", **impossible)
    BackboneConfig(**impossible)
    assert BackboneConfig(fusion="stacked", fusion_cls="shared").alpha is None


@pytest.mark.parametrize("impossible", [{"num_fused_layers": 6}, {"alpha": 0.5}, {"fusion_cls": "own"}])
def test_a_dual_encoder_has_nothing_of_the_open_gate(impossible: dict) -> None:
    with pytest.raises(ValueError, match="fusion: none has no fused layers: set num_fused_layers to 0"):
        BackboneConfig(**({"fusion": "none", "num_fused_layers": 0} | impossible))
    config = BackboneConfig(fusion="none", num_fused_layers=0)
    with pytest.raises(ValueError, match="^rerank=5 needs the gate open, and this backbone is a dual encoder"):
        config.require_fusion("rerank=5")
    BackboneConfig(num_fused_layers=0).require_fusion("rerank=5")


def test_a_linear_projector_has_one_width() -> None:
    with pytest.raises(ValueError, match=r"projector is \[16, 8\]: give one width for linear_projector"):
        BackboneConfig(projector=[16, 8], linear_projector=True)
    assert BackboneConfig(projector=[8], linear_projector=True).projector == [8]


def test_settings_that_earlier_versions_lack_are_written_only_where_they_matter() -> None:
    plain = BackboneConfig(projector=[8]).to_dict()
    assert not {"linear_projector", "compile"} & plain.keys()
    assert not {"attention", "norm_pre_eps"} & plain["video"].keys()
    changed = BackboneConfig(VideoTowerConfig(norm_pre_eps=1e-4), projector=[8], linear_projector=True).to_dict()
    assert changed["linear_projector"] and changed["video"]["norm_pre_eps"] == 1e-4


@pytest.mark.parametrize("key, value, said", [
    ("num_fused_layers", -1, "give 0 or more"), ("alpha", float("inf"), "give null or a finite number"),
    ("alpha", float("nan"), "give null or a finite number"), ("projector", [], "give one width or more"),
    ("projector", [16, 0], "from 1 to"), ("projector", [-1], "from 1 to"), ("projector", [1 << 40], "from 1 to"),
])
def test_values_out_of_bounds_are_named_with_their_key(key: str, value: object, said: str) -> None:
    with pytest.raises(ValueError) as error:
        BackboneConfig(**{key: value})
    assert key in str(error.value) and str(value) in str(error.value) and said in str(error.value)


def test_values_at_their_bounds_are_taken() -> None:
    config = BackboneConfig(num_fused_layers=0, alpha=0.0, projector=[1])
    assert (config.num_fused_layers, config.alpha, config.projector) == (0, 0.0, [1])
    assert BackboneConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="weights.ckpt.*num_fused"):
        BackboneConfig.from_dict(config.to_dict() | {"num_fused": 2}, "weights.ckpt")

"""Sizes of towers at their bounds are taken, and beyond them named with their key."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from egovlpv2.model import vit
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.text_tower import TextTower
from egovlpv2.model.video_tower import VideoTower
from egovlpv2.model.vit import VideoTowerConfig

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("key, value, wanted", [
    ("num_frames", 0, "a number of frames from 1 to 10000"), ("num_frames", 10_001, "a number of frames from 1"),
    ("norm_eps", 0.0, "a number between 0 and 1"), ("norm_eps", 1.0, "a number between 0 and 1"),
    ("drop_path", -0.1, "a rate from 0 on and below 1"), ("drop_path", 1.0, "a rate from 0 on and below 1"),
    ("pixel_mean", [0.5, 0.5], "null or three finite numbers"), ("pixel_mean", [0.5, 0.5, NAN], "null or three finite"),
    ("pixel_std", [0.5] * 4, "null or three finite numbers"), ("pixel_std", [0.5, INF, 0.5], "null or three finite"),
    ("pixel_std", [0.5, 0.0, 0.5], "numbers above 0"), ("pixel_std", [-1.0, 0.1, 0.5], "numbers above 0"),
])
def test_numbers_of_the_video_tower_have_bounds(key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError) as error:
        VideoTowerConfig(**{key: value})
    assert str(error.value).startswith(f"{key} is {value!r}: give {wanted}")


@pytest.mark.parametrize("values", [
    {"num_frames": 1}, {"num_frames": 10_000}, {"drop_path": 0.0}, {"drop_path": 0.999},
    {"pixel_mean": [0.0, -1.0, 2.0]},
    {"pixel_std": [1e-9, 1.0, 1.5]}, {"norm_eps": 1e-12},
    {"overrides": {"img_size": 1, "patch_size": [1, 16384], "embed_dim": 1, "depth": 1, "num_heads": 1}},
    {"overrides": {"img_size": [16384, 1], "mlp_ratio": 1024, "in_chans": 3, "embed_dim": 1 << 20, "depth": 1000}},
])
def test_numbers_at_the_bounds_are_taken(values: dict[str, Any]) -> None:
    config = VideoTowerConfig(**values)
    assert {key: getattr(config, key) for key in values} == values


@pytest.mark.parametrize("key, value", [
    ("img_size", 0), ("img_size", [32]), ("img_size", [32, 32, 32]), ("img_size", 16385), ("img_size", "32"),
    ("patch_size", -1), ("patch_size", [16, 0]), ("in_chans", 4), ("embed_dim", 0), ("embed_dim", (1 << 20) + 1),
    ("depth", 0), ("depth", 1001), ("num_heads", 0), ("mlp_ratio", 0), ("mlp_ratio", 1025), ("no_such", 1),
])
def test_overrides_of_a_vit_have_bounds(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"overrides.*{key}"):
        VideoTowerConfig(overrides={key: value})


@pytest.mark.parametrize("key, value", [
    ("vocab_size", 0), ("vocab_size", (1 << 24) + 1), ("hidden_size", 0), ("hidden_size", (1 << 20) + 1),
    ("num_hidden_layers", 0), ("num_hidden_layers", 1001), ("num_attention_heads", 0), ("intermediate_size", 0),
    ("max_position_embeddings", 0), ("type_vocab_size", 0), ("pad_token_id", -1), ("layer_norm_eps", 0.0),
    ("layer_norm_eps", 1.0), ("hidden_dropout_prob", 1.0), ("hidden_dropout_prob", -0.1),
    ("attention_probs_dropout_prob", 1.0), ("initializer_range", -1.0), ("hidden_act", 3), ("model_type", 3),
])
def test_sizes_of_the_text_tower_have_bounds(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^arch.*{key}"):
        TextTowerConfig({"model_type": "roberta", key: value})


@pytest.mark.parametrize("values", [
    {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.999}, {"hidden_dropout_prob": 0.5},
    {"vocab_size": 1, "hidden_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 1},
    {"vocab_size": 1 << 24, "hidden_size": 1 << 20, "num_hidden_layers": 1000, "pad_token_id": 0},
    {"max_position_embeddings": 1, "type_vocab_size": 1, "initializer_range": 0.0, "pad_token_id": None},
])
def test_sizes_of_the_text_tower_at_their_bounds_are_taken(values: dict[str, Any]) -> None:
    assert TextTowerConfig({"model_type": "roberta", **values}).arch == {"model_type": "roberta", **values}


@pytest.mark.parametrize("arch, message", [
    ({"model_type": "no-such-model"}, "transformers knows no such configuration: .*no-such-model"),
    ({"model_type": "bert", "hiden_size": 8}, "hiden_size is not an argument of bert"),
])
def test_what_transformers_does_not_know_is_named(arch: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"text.arch: {message}"):
        TextTowerConfig(arch).resolve()


def test_arguments_of_older_releases_are_taken_with_the_values_of_today() -> None:
    older = {"position_embedding_type": "absolute", "gradient_checkpointing": False, "torch_dtype": "float32"}
    for key, value in older.items():
        assert TextTowerConfig({"model_type": "bert", key: value}).resolve().model_type == "bert"
    with pytest.raises(ValueError, match="position_embedding_type"):
        TextTowerConfig({"model_type": "bert", "position_embedding_type": "relative_key"}).resolve()


def test_the_padding_may_be_any_token_and_the_vocabulary_small() -> None:
    small = {"model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 24, "max_position_embeddings": 120}
    tower = TextTower(TextTowerConfig({**small, "vocab_size": 300, "pad_token_id": 100}), 1, 8)
    assert (tower.padding_id, tower.max_tokens) == (100, 19)
    assert TextTower(TextTowerConfig({**small, "vocab_size": 5}), 1, 8).vocab_size == 5


def test_an_error_of_timm_is_quoted() -> None:
    size = {"img_size": 32, "embed_dim": 24, "depth": 1}
    with pytest.raises(ValueError, match="timm can't build vit_tiny_patch16_224.*dim.*divisible by num_heads"):
        VideoTower(VideoTowerConfig("vit_tiny_patch16_224", size | {"num_heads": 5}), 0, 8)


@pytest.mark.parametrize("name, custom", [("vit.npz", True), ("vit.pth", False), ("npz.safetensors", False)])
def test_files_of_jax_are_loaded_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
                                         custom: bool) -> None:
    (tmp_path / name).write_bytes(b"x")
    asked: list[dict[str, Any]] = []
    create = timm.create_model

    def recorded(model: str, pretrained: bool, pretrained_cfg_overlay: Any = None, **kwargs: Any) -> nn.Module:
        asked.append({"pretrained": pretrained, "overlay": pretrained_cfg_overlay})
        return create(model, **kwargs)

    monkeypatch.setattr(timm, "create_model", recorded)
    monkeypatch.setattr(vit, "_check_keys", lambda *_: None)
    size = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    VideoTower(VideoTowerConfig("vit_tiny_patch16_224", size, init=str(tmp_path / name)), 0, 8)
    assert asked[0] == {"pretrained": True, "overlay": {"file": str(tmp_path / name), "custom_load": custom}}

"""Weights of other models, damaged files and invalid configurations: one line that names the file."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, zeros

from egovlpv2 import load_backbone
from egovlpv2.checkpoints.head_weights import read_answer_head, read_head, read_summary_head
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.config import BackboneConfig

FOREIGN = {
    "LaViLa or AVION": ["module.visual.cls_token", "module.visual.blocks.0.attn.qkv.weight",
                        "module.textual.positional_embedding"],
    "EgoVLP, the first version": ["module.video_model.cls_token", "module.video_model.pos_embed",
                                  "module.text_model.transformer.layer.0.attention.q_lin.weight"],
    "the video tower of Frozen in Time": ["module.video_model.blocks.0.attn.qkv.weight"],
    "TimeSformer": ["model.cls_token", "model.time_embed", "model.blocks.0.temporal_attn.qkv.weight"],
    "CLIP of OpenAI": ["visual.conv1.weight", "visual.transformer.resblocks.0.attn.in_proj_weight"],
    "CLIP or SigLIP of transformers": ["vision_model.encoder.layers.0.self_attn.k_proj.weight"],
    "a ViT of timm": ["cls_token", "blocks.0.attn.qkv.weight"],
    "BERT or RoBERTa": ["roberta.embeddings.word_embeddings.weight"],
    "a head such as": ["head.encoder.norm.weight"],
    "it begins with 'layer1.weight'": ["layer1.weight"],
    "it is empty": [],
}


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("what", FOREIGN)
def test_another_models_weights_are_recognised_by_their_names(tmp_path: Path, what: str, suffix: str) -> None:
    state, path = {name: zeros(4, 4) for name in FOREIGN[what]}, tmp_path / f"other{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    with pytest.raises(ValueError, match=rf"other{suffix} holds no EgoVLPv2 weights \(.*{what}") as found:
        load_backbone(path)
    assert "\n" not in str(found.value)


CONTENTS = {
    "a list": ([1, 2], "it is a list, not a dict"), "nothing": (None, "it is a NoneType"),
    "a number as state": ({"state_dict": 7}, "is a int, not a dict of tensors"),
    "a number where a tensor belongs": ({"state_dict": {"module.video_model.cls_token": 3}},
                                        "module.video_model.cls_token is a int where a tensor belongs"),
    "a number as a name": ({"state_dict": {5: zeros(2)}}, "has a key 5 that is not a text"),
    "numbers that aren't there": ({"state_dict": {"a": zeros(1).expand(10**13)}}, "a is not a plain tensor"),
    "a sparse tensor": ({"state_dict": {"a": torch.eye(3).to_sparse()}}, "a is not a plain tensor"),
    "a bare state dict": ({"fc.weight": zeros(2, 2)}, "it begins with 'fc.weight'"),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_contents_that_are_no_weights_are_named(tmp_path: Path, what: str) -> None:
    content, message = CONTENTS[what]
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth.*{message}"):
        load_backbone(tmp_path / "a.pth")


def released(**more: Tensor) -> dict[str, Tensor]:
    """The tensors that the sizes of a released checkpoint are derived from, without any other."""
    text = "text_model.encoder.layer.0."
    return {"video_model.patch_embed.proj.weight": torch.randn(64, 3, 16, 16),
            "video_model.pos_embed": zeros(1, 5, 64), "video_model.temporal_embed": zeros(1, 4, 64),
            "video_model.blocks.0.attn.qkv.weight": torch.randn(192, 64),
            "text_model.embeddings.word_embeddings.weight": torch.randn(10, 64),
            "text_model.embeddings.position_embeddings.weight": torch.randn(10, 64),
            f"{text}intermediate.dense.weight": torch.randn(128, 64), f"{text}alpha_t2i": zeros(1),
            "vid_proj.0.weight": torch.randn(8, 64), **more}


@pytest.mark.parametrize("more, message", [
    ({}, r"does not fit the model.*missing video_tower.cls_token \(1, 1, 64\)"),
    ({"extra.weight": zeros(1)}, "holds no whole EgoVLPv2 weights: extra.weight is not a key of a released EgoVLPv2"),
    ({"text_model.encoder.layer.0.crossattention_t2i.self.key.weight": zeros(4, 4)}, "has keys without values"),
    ({"video_model.blocks.1000000000.norm1.bias": zeros(4)}, "depth: Expected `int` <= 1000"),
    ({"video_model.pos_embed": zeros(1, 0, 64)}, "img_size: Expected `int` >= 1"),
    ({"video_model.pos_embed": zeros(64)}, "with a part missing.*it lacks video_model.pos_embed"),
])
def test_released_weights_that_are_not_whole_are_named(tmp_path: Path, more: dict[str, Tensor], message: str) -> None:
    torch.save({"state_dict": {f"module.{name}": value for name, value in released(**more).items()}},
               tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"a.pth.*{message}") as found:
        load_backbone(tmp_path / "a.pth")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt"])
def test_files_that_torch_save_did_not_write_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    torch.save({"state_dict": {}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=f"a{suffix}: not a readable .*file of a torch before 1.6: save it again"):
        load_backbone(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(ValueError, match=f"a{suffix}: not a readable weights file: it looks like a zip archive"):
        load_backbone(path)
    torch.save({"state_dict": {"a": torch.ones(1000)}}, path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.ones(3).numpy().tobytes()) + 900] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"a{suffix}: not a readable weights file: .*the checksum of 'a/data/0'"):
        load_backbone(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=f"a{suffix} is a folder"):
        load_backbone(path)


@pytest.fixture
def change(make_backbone: Callable[..., Backbone], tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small model with changes of its configuration (text) and of its tensors."""

    def _change(config: Callable[[dict[str, Any]], Any] | str, tensors: dict[str, Tensor | None] | None = None) -> Path:
        save_backbone(make_backbone(), tmp_path / "a.safetensors")
        state, plain = load_file(tmp_path / "a.safetensors"), make_backbone().config.to_dict()
        if callable(config):
            config(plain)
        state = {name: tensor for name, tensor in (state | (tensors or {})).items() if tensor is not None}
        text = config if isinstance(config, str) else json.dumps(plain)
        save_file(state, tmp_path / "a.safetensors", {"egovlpv2": text})
        return tmp_path / "a.safetensors"

    return _change


CONFIGURATIONS: list[tuple[Any, str]] = [
    ("{,", "line 1, column 2: not JSON"), ("[]", "Expected `object`, got `array`"), ("", "not JSON"),
    ('{"video": ' * 100_000, "nested too deeply"),
    (lambda c: c.update(gates=3), "unknown key gates"),
    (lambda c: c["text"].update(archh={}), "unknown key text.archh"),
    (lambda c: c.update(video=None), "video: Expected `object`, got `null`"),
    (lambda c: c.update(text_attends_to="prevoius"), "text_attends_to: Invalid enum value 'prevoius'"),
    (lambda c: c["video"].update(pixel_std=[0.5, 0, 0.5]), "video: pixel_std is .*: give numbers above 0"),
    (lambda c: c["video"].update(pixel_mean=[0.5]), "pixel_mean is .*three"),
    (lambda c: c.update(projector=[]), "projector is"), (lambda c: c.update(projector=[-1]), "projector is"),
    (lambda c: c.update(projector="256"), "projector: Expected `array`"),
    (lambda c: c.update(num_fused_layers=-1), "num_fused_layers is -1"),
    (lambda c: c.update(num_fused_layers=4), "num_fused_layers is 4, but .* has 3 blocks"),
    (lambda c: c.update(alpha=float("inf")), "Infinity is not a number"),
    (lambda c: c["video"].update(num_frames=0), "num_frames is 0"), (lambda c: c["video"].update(name=5), "video.name"),
    (lambda c: c["video"].update(name="vit_of_mine"), "timm can't build vit_of_mine"),
    (lambda c: c["video"].update(name="resnet18", overrides={}), "resnet18 is not supported"),
    (lambda c: c["video"]["overrides"].update(depth=10**9), "depth: Expected `int` <= 1000"),
    (lambda c: c["video"]["overrides"].update(embed_dim=-24), "embed_dim: Expected `int` >= 1"),
    (lambda c: c["video"]["overrides"].update(embed_dim=10**6), r"does not fit the model.*\(1, 1, 1000000\) in the"),
    (lambda c: c["video"]["overrides"].update(num_heads=5), "timm can't build .*divisible"),
    (lambda c: c["video"]["overrides"].update(deep=5), "overrides: deep is not an argument"),
    (lambda c: c["video"].update(norm_eps=-1), "norm_eps is -1"),
    (lambda c: c["video"].update(norm_eps="1e-5"), "video.norm_eps: Expected `float | null`, got `str`"),
    (lambda c: c["text"]["arch"].update(num_attention_heads=5), "multiple of the number of attention heads"),
    (lambda c: c["text"]["arch"].update(hidden_size="32"), "hidden_size: Expected `int`, got `str`"),
    (lambda c: c["text"]["arch"].update(vocab_size=10**12), "vocab_size: Expected `int` <= 16777216"),
    (lambda c: c["text"]["arch"].update(hidden=32), "text.arch: hidden is not an argument of roberta"),
    (lambda c: c["text"]["arch"].update(hidden_act="foo"), "text.arch: transformers can't build roberta: .*foo"),
    (lambda c: c["text"]["arch"].update(model_type="robert"), "text.arch: transformers knows no such configuration"),
    (lambda c: c["text"]["arch"].pop("model_type"), "needs a `model_type`"),
]


@pytest.mark.parametrize("config, message", CONFIGURATIONS, ids=range(len(CONFIGURATIONS)))
def test_configurations_that_are_none_are_named_with_their_key(change: Callable[..., Path], config: Any,
                                                               message: str) -> None:
    with pytest.raises(ValueError, match=f"a.safetensors.*{message}") as found:
        load_backbone(change(config))
    assert "\n" not in str(found.value)


BIAS = "video_tower.norm.bias"
MATRIX = "text_tower.blocks.0.query.weight"


@pytest.mark.parametrize("tensors, message", [
    ({BIAS: torch.full((24,), torch.nan)}, f"{BIAS} has a number that is NaN or infinite"),
    ({BIAS: torch.tensor([0.0] * 23 + [-torch.inf])}, f"{BIAS} has a number that is NaN or infinite"),
    ({MATRIX: zeros(32, 32)}, f"all numbers of {MATRIX} are 0"),
    ({MATRIX: torch.ones(32, 32)}, f"all numbers of {MATRIX} are 1"),
    ({MATRIX: torch.ones(32, 32, dtype=torch.int64)}, f"{MATRIX} is of torch.int64 in the file"),
    ({MATRIX: None}, rf"missing {MATRIX} \(32, 32\)"), ({"more": zeros(3)}, r"unknown more \(3,\)"),
    ({"video_tower.temporal_embed": zeros(24)}, r"temporal_embed is \(24,\) in the file"),
    ({"video_tower.temporal_embed": zeros(1, 0, 24)}, r"temporal_embed is \(1, 0, 24\) in the file"),
])
def test_tensors_that_nothing_can_be_computed_with_are_named(change: Callable[..., Path], tmp_path: Path,
                                                            tensors: dict[str, Tensor], message: str) -> None:
    path = change(lambda _: None, tensors)
    with pytest.raises(ValueError, match=f"a.safetensors.*{message}") as found:
        load_backbone(path)
    assert "\n" not in str(found.value)
    with pytest.raises(SystemExit, match="a.safetensors"):
        cli(["convert", str(path), str(tmp_path / "b.safetensors")])
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_weights_that_are_not_sound_are_not_written(make_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    backbone = make_backbone()
    backbone.text_tower.blocks[0].query.weight.data[3, 4] = torch.nan
    with pytest.raises(ValueError, match=f"b.safetensors: {MATRIX} has a number that is NaN"):
        save_backbone(backbone, tmp_path / "b.safetensors")
    assert not list(tmp_path.iterdir())


def test_keys_of_configurations_in_our_files_stay() -> None:
    """A file that an earlier release wrote still opens."""
    earlier = {
        "video": {"name": "vit_tiny_patch16_224", "overrides": {"img_size": [32, 48], "patch_size": 16, "depth": 2,
                  "embed_dim": 24, "num_heads": 2, "weight_init": "jax"}, "init": None, "num_frames": 4,
                  "norm_eps": 1e-05, "drop_path": 0.0, "pixel_mean": [0.5, 0.5, 0.5], "pixel_std": None},
        "text": {"arch": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "intermediate_size": 48, "position_embedding_type": "absolute"}, "init": None, "tokenizer": "toy"},
        "fusion": "backbone", "num_fused_layers": 1, "alpha": None, "text_attends_to": "previous",
        "fusion_cls": "own", "projector": [256], "gradient_checkpointing": False,
    }
    config = BackboneConfig.from_dict(earlier)
    assert config.to_dict() == earlier
    Backbone(config)


@pytest.mark.parametrize("facts, message", [
    (5, "is not a checkpoint of QFVS"), ({"dim": "x"}, "egovlpv2.qfvs: .*dim: Expected `int`"),
    ({"dim": 8}, "missing required field"), ({"num_heads": 3}, "num_heads 3 does not divide dim 8"),
    ({"dim": 1 << 20, "num_heads": 2}, "its summary.weight is not 1048576 wide"),
    ({"kind": "dual"}, "kind: Invalid enum value 'dual'"), ({"num_layers": 2}, "complete checkpoint of QFVS .*Missing"),
])
def test_damaged_heads_are_named(tmp_path: Path, facts: Any, message: str) -> None:
    from egovlpv2.heads.summary import SummaryHead

    whole = {"dim": 8, "num_layers": 1, "num_heads": 2, "kind": "fused", "checkpoint": "0" * 16}
    state = {f"head.{name}": tensor for name, tensor in SummaryHead(8).state_dict().items()}
    told = facts if not isinstance(facts, dict) or facts == {"dim": 8} else whole | facts
    torch.save({"state_dict": state, "egovlpv2": {"qfvs": told}}, tmp_path / "head.ckpt")
    with pytest.raises(ValueError, match=f"head.ckpt.*{message}"):
        read_summary_head(tmp_path / "head.ckpt")
    with pytest.raises(ValueError, match="head.ckpt holds no EgoVLPv2 weights .it looks like a head such as"):
        load_backbone(tmp_path / "head.ckpt")


def test_heads_of_another_task_are_named(tmp_path: Path) -> None:
    from torch import nn

    torch.save({"state_dict": {"xGPN.conv0.0.weight": 5}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth, state_dict: xGPN.conv0.0.weight is a int where a tensor belongs"):
        read_head(nn.Linear(2, 2), "vsgn", tmp_path / "a.pth")
    torch.save({"state_dict": {"feature_encoder.conv1d.weight": zeros(3)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth does not fit the head"):
        read_head(nn.Linear(2, 2), "vslnet", tmp_path / "a.pth")
    torch.save({"state_dict": {}, "egovlpv2": {"taskqa": {"max_tokens": -1}}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="a.ckpt, egovlpv2.taskqa: max_tokens: Expected `int` >= 1"):
        read_answer_head(tmp_path / "a.ckpt")

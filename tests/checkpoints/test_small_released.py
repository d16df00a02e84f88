"""A small model in the layout of a released file: converted names and derived configuration."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from egovlpv2.checkpoints import convert
from egovlpv2.checkpoints.head_weights import read_answer_head
from egovlpv2.checkpoints.released import read_released, strip_prefix
from egovlpv2.checkpoints.weights import load_backbone, read_weights
from egovlpv2.heads.answers import AnswerHead

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.append(str(GOLDEN))
from fill_state import fill  # noqa: E402

# Layers of the released layout that the small model has: one without and two with cross-attention.
LAYERS = {"0": "0", "6": "1", "7": "2"}
SIZES = {768: 128, 3072: 512, 2304: 384, 1536: 256, 4096: 24, 50265: 60, 514: 20, 197: 1 + 2 * 2, 4: 3, 16: 8}


def small_layout() -> dict[str, list[int]]:
    """Names as released, shapes of a model of width 128, three layers, four patches of 8 px and three frames."""
    layout = {}
    for name, shape in json.loads((GOLDEN / "egovlpv2_state_layout.json").read_text()).items():
        layer = re.search(r"(?<=\.blocks\.)\d+(?=\.)|(?<=\.layer\.)\d+(?=\.)", name)
        if layer is not None:
            if layer[0] not in LAYERS:
                continue
            name = name[: layer.start()] + LAYERS[layer[0]] + name[layer.end() :]
        layout[name] = [SIZES.get(size, size) for size in shape]
    return layout


@pytest.fixture
def state() -> dict[str, Tensor]:
    made = {name: fill(name, tuple(shape)) for name, shape in small_layout().items()}
    made["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    return made | {"mlm_score.decoder.bias": made["mlm_score.bias"]}  # a second name of the same


@pytest.fixture
def released(state: dict[str, Tensor], tmp_path: Path) -> Path:
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "small.pth")
    return tmp_path / "small.pth"


def test_shapes_tell_the_configuration(released: Path) -> None:
    config, _ = read_weights(released)
    assert config["video"] | {"name": "", "drop_path": 0} == {
        "name": "", "init": None, "num_frames": 3, "norm_eps": 1e-5, "drop_path": 0,
        "overrides": {"depth": 3, "embed_dim": 128, "num_heads": 2, "patch_size": 8, "img_size": 16},
        "pixel_mean": [0.485, 0.456, 0.406], "pixel_std": [0.229, 0.224, 0.225]}
    assert config["text"]["arch"] == {
        "model_type": "roberta", "vocab_size": 60, "hidden_size": 128, "num_attention_heads": 2,
        "num_hidden_layers": 3, "intermediate_size": 512, "max_position_embeddings": 20, "type_vocab_size": 1,
        "layer_norm_eps": 1e-5}
    assert config["num_fused_layers"] == 2 and config["projector"] == [24, 24, 24] and config["alpha"] is None
    assert (config["text_attends_to"], config["fusion_cls"], config["fusion"]) == ("previous", "own", "backbone")


OURS = {
    "video_model.blocks.1.attn.alpha_i2t": "video_tower.blocks.1.fusion.alpha",
    "video_model.blocks.1.attn.norm_i2t_i.weight": "video_tower.blocks.1.fusion.norm.weight",
    "video_model.blocks.2.attn.qkv_i2t.bias": "video_tower.blocks.2.fusion.query.bias",
    "video_model.blocks.2.attn.qkv_text_i2t.weight": "video_tower.blocks.2.fusion.key_value.weight",
    "video_model.blocks.2.attn.proj_i2t.weight": "video_tower.blocks.2.fusion.out.weight",
    "video_model.blocks.0.timeattn.qkv.weight": "video_tower.blocks.0.time_attn.qkv.weight",
    "video_model.blocks.0.norm3.weight": "video_tower.blocks.0.norm_time.weight",
    "video_model.blocks.0.norm1.weight": "video_tower.blocks.0.norm1.weight",
    "video_model.blocks.0.norm2.bias": "video_tower.blocks.0.norm2.bias",
    "video_model.cls_token": "video_tower.cls_token", "cls_token": "fused_cls_token",
    "video_model.norm.weight": "video_tower.norm.weight", "norm.weight": "fused_norm.weight",
    "text_model.embeddings.LayerNorm.weight": "text_tower.embeddings.LayerNorm.weight",
    "text_model.encoder.layer.1.alpha_t2i": "text_tower.blocks.1.fusion.alpha",
    "text_model.encoder.layer.1.crossattention_t2i.self.query.weight": "text_tower.blocks.1.fusion.query.weight",
    "text_model.encoder.layer.2.crossattention_t2i.output.dense.bias": "text_tower.blocks.2.fusion.out.bias",
    "text_model.encoder.layer.0.attention.self.key.weight": "text_tower.blocks.0.key.weight",
    "text_model.encoder.layer.0.attention.output.dense.weight": "text_tower.blocks.0.out.weight",
    "text_model.encoder.layer.0.attention.output.LayerNorm.bias": "text_tower.blocks.0.norm1.bias",
    "text_model.encoder.layer.0.intermediate.dense.weight": "text_tower.blocks.0.fc1.weight",
    "text_model.encoder.layer.0.output.dense.weight": "text_tower.blocks.0.fc2.weight",
    "text_model.encoder.layer.0.output.LayerNorm.weight": "text_tower.blocks.0.norm2.weight",
    "vid_proj.2.weight": "video_projector.2.weight", "txt_proj.2.weight": "text_projector.2.weight",
    "cross_modal_video_transform.weight": "fused_video_transform.weight",
    "cross_modal_text_transform.weight": "fused_text_transform.weight",
    "cross_modal_video_pooler.dense.weight": "match_head.video_pooler.weight",
    "cross_modal_text_pooler.dense.weight": "match_head.text_pooler.weight",
    "itm_score.fc.weight": "match_head.classifier.weight",
    "mlm_score.transform.dense.weight": "masked_word_head.transform.weight",
    "mlm_score.transform.LayerNorm.weight": "masked_word_head.norm.weight",
    "mlm_score.decoder.weight": "masked_word_head.decoder.weight", "mlm_score.bias": "masked_word_head.decoder.bias",
}


def test_every_tensor_finds_its_place(state: dict[str, Tensor], released: Path) -> None:
    backbone = load_backbone(released, num_frames=3)
    found = backbone.state_dict()
    for theirs, ours in OURS.items():
        assert torch.equal(found[ours], state[theirs]), ours
    for part in ("weight", "bias"):
        keys = f"text_model.encoder.layer.1.crossattention_t2i.self.{{}}.{part}"
        both = torch.cat([state[keys.format("key")], state[keys.format("value")]])
        assert torch.equal(found[f"text_tower.blocks.1.fusion.key_value.{part}"], both)
    assert not backbone.training
    joined_or_dropped = 2 * 2 + 2  # keys with values, weight and bias, in two layers; the buffer and the second name
    assert len(found) == len(state) - joined_or_dropped


def test_a_key_that_is_not_theirs_is_named(state: dict[str, Tensor]) -> None:
    for name in ("video_model.block.0.norm1.weight", "mlm_score.bias.more", "projector_1.weight"):
        with pytest.raises(ValueError, match=re.escape(name)):
            convert("egovlpv2", state | {name: torch.zeros(1)})
    with pytest.raises(ValueError, match="kind is 'egovlpv3'; known: .*'avion'"):
        convert("egovlpv3", state)


def test_names_under_a_prefix() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert strip_prefix({"head.a": one, "b.head.a": two, "head.": two}, "head.") == {"a": one, "": two}


def with_answers(state: dict[str, Tensor], answers: int = 7) -> dict[str, Tensor]:
    shapes = {"projector_1.weight": (answers, 128), "projector_1.bias": (answers,),
              "projector_2.weight": (answers, answers), "projector_2.bias": (answers,)}
    return state | {name: fill(name, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_released_file_that_answers_holds_a_head_beside_its_backbone(state: dict[str, Tensor], tmp_path: Path,
                                                                        suffix: str) -> None:
    state, path = with_answers(state), tmp_path / f"taskqa{suffix}"
    torch.save({"model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    assert load_backbone(path, num_frames=3).state_dict().keys() == convert("egovlpv2", {
        name: tensor for name, tensor in state.items() if not name.startswith("projector")}).keys()
    head, facts = read_answer_head(path)
    assert isinstance(head, AnswerHead) and facts == {}
    assert {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()} == {
        "hidden.weight": (7, 128), "hidden.bias": (7,), "out.weight": (7, 7), "out.bias": (7,)}
    assert torch.equal(head.hidden.weight, state["projector_1.weight"])
    assert torch.equal(head.out.bias, state["projector_2.bias"])
    both = convert("taskqa", {f"module.{name}": tensor for name, tensor in state.items()})
    assert torch.equal(both["answer_head.out.weight"], state["projector_2.weight"])
    assert torch.equal(both["backbone.fused_cls_token"], state["cls_token"])
    assert {name.split(".")[0] for name in both} == {"backbone", "answer_head"}


def test_a_released_file_without_answers_has_no_head(released: Path) -> None:
    assert read_answer_head(released) == (None, {})


def test_a_file_is_read_by_its_own_names(state: dict[str, Tensor], released: Path, tmp_path: Path) -> None:
    assert read_released(released).keys() == state.keys()
    torch.save({"state_dict": state}, tmp_path / "bare.pth")
    assert read_released(tmp_path / "bare.pth").keys() == state.keys()
    for content in ([1, 2], {"weights": state}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="other.pth"):
            read_released(tmp_path / "other.pth")

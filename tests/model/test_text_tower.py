"""The text tower beyond its layers: positions, first weights and dropout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_text
from torch import Tensor, nn
from transformers import AutoModel

from egovlpv2.model import text_block as module
from egovlpv2.model.backbone import Backbone
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.text_tower import TextTower

BERT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
        "max_position_embeddings": 12}


def text_tower(model_type: str = "roberta", num_fused: int = 2, **changes: Any) -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextTowerConfig({"model_type": model_type, **BERT, **changes}), num_fused, 24)


def test_defaults_of_the_text_tower_are_roberta_base() -> None:
    arch = TextTowerConfig().resolve()
    assert TextTowerConfig().tokenizer == "roberta-base" and TextTowerConfig().init is None
    expected = {"model_type": "roberta", "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12,
                "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514,
                "type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu"}
    assert {name: getattr(arch, name) for name in expected} == expected
    one, two = TextTowerConfig(), TextTowerConfig()
    one.arch["vocab_size"] = 7
    assert two.arch["vocab_size"] == TextTowerConfig().arch["vocab_size"] == 50265  # not shared
    two.resolve()
    assert two.arch["model_type"] == "roberta"


@pytest.mark.parametrize("fused", [0, 1, 3])
def test_the_last_text_blocks_are_fused(fused: int) -> None:
    tower = text_tower(num_fused=fused, layer_norm_eps=0.125, hidden_dropout_prob=0.25)
    assert (tower.dim, tower.vocab_size, tower.num_fused, len(tower.blocks)) == (16, 50, fused, 3)
    assert (tower.norm_eps, tower.dropout) == (0.125, 0.25)
    assert [block.fusion is not None for block in tower.blocks] == [i >= 3 - fused for i in range(3)]
    for block in tower.blocks[3 - fused :]:
        assert block.fusion.num_heads == 2 and isinstance(block.fusion.norm, nn.Identity)
        assert block.fusion.query.in_features == 16 and block.fusion.key_value.in_features == 24
        assert block.fusion.dropout.p == 0.25
    with pytest.raises(ValueError, match="num_fused_layers is 4, but the text tower has 3 layers"):
        text_tower(num_fused=4)


@pytest.mark.parametrize("model_type, most", [("roberta", 10), ("bert", 12)])
def test_texts_may_be_as_long_as_there_are_positions(model_type: str, most: int) -> None:
    """RoBERTa's positions begin behind that of the padding, 1."""
    tower = text_tower(model_type)
    ids = torch.randint(5, 50, (2, most))
    assert tower.max_tokens == most and tower.embed(ids).shape == (2, most, 16)
    with pytest.raises(ValueError, match=f"texts of {most + 1} tokens are too long for a text tower of {most} pos"):
        tower.embed(torch.randint(5, 50, (2, most + 1)))


def test_dropout_of_a_text_layer_is_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    block = text_tower(attention_probs_dropout_prob=0.25, hidden_dropout_prob=0.5).blocks[0]
    asked, attend = [], module.attend
    monkeypatch.setattr(module, "attend", lambda *args: asked.append(args[5]) or attend(*args[:5]))
    x, mask = torch.randn(4, 6, 16), torch.ones(4, 6, dtype=torch.bool)
    assert torch.equal(block.eval()(x, mask), block(x, mask))
    once, again = block.train()(x, mask), block(x, mask)
    assert asked == [0.0, 0.0, 0.25, 0.25] and not torch.equal(once, again)
    calls: list[Tensor] = []
    for dropout in (block.out_dropout, block.mlp_dropout):
        dropout.register_forward_hook(lambda _, args, __: calls.append(args[0]))
        assert dropout.p == 0.5
    block(x, mask)
    assert len(calls) == 2


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_closed_text_tower_is_the_transformers_model(activation: str) -> None:
    tower = text_tower("bert", layer_norm_eps=1e-3, hidden_act=activation).eval()
    config = TextTowerConfig({"model_type": "bert", **BERT, "layer_norm_eps": 1e-3, "hidden_act": activation})
    torch.manual_seed(0)
    theirs = AutoModel.from_config(config.resolve()).eval()
    ids, mask = torch.randint(5, 50, (2, 6)), torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    x = tower.embed(ids)
    for block in tower.blocks:
        x = block(x, mask.bool())
    expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(x[mask.bool()], expected[mask.bool()])


def save_encoder(folder: Path, **changes: Any) -> nn.Module:
    torch.manual_seed(3)
    model = AutoModel.from_config(TextTowerConfig({"model_type": "roberta", **BERT, **changes}).resolve())
    model.save_pretrained(folder)
    return model


def first(folder: Path, **changes: Any) -> TextTower:
    return TextTower(TextTowerConfig({"model_type": "roberta", **BERT, **changes}, init=str(folder)), 1, 24)


def test_first_weights_of_a_text_tower_come_from_its_folder_in_float32(tmp_path: Path) -> None:
    model = save_encoder(tmp_path)
    tower = first(tmp_path)
    assert torch.equal(tower.blocks[2].fc1.weight, model.encoder.layer[2].intermediate.dense.weight)
    model.bfloat16().save_pretrained(tmp_path)
    assert first(tmp_path).blocks[0].query.weight.dtype == torch.float32


def test_first_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    with pytest.raises(ValueError, match=r"trained as another model: num_hidden_layers is 3"):
        first(tmp_path, num_hidden_layers=4)
    with pytest.raises(ValueError, match="text.init: no weights that fit text.arch at"):
        first(tmp_path, hidden_size=32)
    with pytest.raises(ValueError, match="text.init: no weights that fit text.arch at .*nowhere"):
        first(tmp_path / "nowhere")


def test_a_missing_pooler_is_not_missed(tmp_path: Path) -> None:
    AutoModel.from_config(TextTowerConfig({"model_type": "roberta", **BERT}).resolve(),
                          add_pooling_layer=False).save_pretrained(tmp_path)
    assert len(first(tmp_path).blocks) == 3


def test_positions_of_padding_count_for_nothing(make_backbone) -> None:
    backbone: Backbone = make_backbone()
    text = make_text(1, length=6)
    longer = {"input_ids": torch.cat([text["input_ids"], torch.ones(1, 3, dtype=torch.long)], 1),
              "attention_mask": torch.cat([text["attention_mask"], torch.zeros(1, 3, dtype=torch.long)], 1)}
    torch.testing.assert_close(backbone.text_features(longer)[:, :4], backbone.text_features(text)[:, :4])

"""Tokenizers open from folders, and texts become ids of one length."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import make_config
from transformers import PreTrainedTokenizerFast

from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import check_tokenizer, load_fitting_tokenizer, load_tokenizer, tokenize


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(["<pad>", "<unk>", "the", "cup"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(tmp_path)
    return tmp_path


def test_texts_are_padded_and_cut(folder: Path) -> None:
    text = tokenize(load_tokenizer(str(folder)), ["the cup", "the", "the cup the spoon the"], max_tokens=4)
    assert set(text) == {"input_ids", "attention_mask"}
    assert text["input_ids"].tolist() == [[2, 3, 0, 0], [2, 0, 0, 0], [2, 3, 2, 1]]
    assert text["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert text["input_ids"].dtype == text["attention_mask"].dtype == torch.int64


def test_no_texts(folder: Path) -> None:
    text = tokenize(load_tokenizer(str(folder)), [], max_tokens=4)
    assert text["input_ids"].shape == text["attention_mask"].shape == (0, 4)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no tokenizer: it needs tokenizer.json"):
        load_tokenizer(str(tmp_path))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the tokenizer .* can't be loaded: .*save_pretrained"):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_tokenizer_that_cannot_pad(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="no padding token: set `pad_token`"):
        load_tokenizer(str(folder))


def test_robertas_two_files_are_enough(toy: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(toy / "tokenizer" / name, tmp_path / name)
    texts = ["#C C opens the jar", "#O the man wipes the cup"]
    alone, whole = (tokenize(load_tokenizer(str(folder)), texts, 16) for folder in (tmp_path, toy / "tokenizer"))
    torch.testing.assert_close(alone["input_ids"], whole["input_ids"])


@pytest.fixture
def fitting(make_backbone, tmp_path: Path):  # noqa: ANN201
    """A function that compares a made-up tokenizer with a text tower of 600 tokens."""

    def compare(tokens: int, tower_tokens: int = 600, pad_token: str = "<pad>", **arch: object) -> None:
        backbone = make_backbone(tokenizer="")
        config = make_config()
        config.text.arch |= {"vocab_size": tower_tokens, **arch}
        folder = made_up_tokenizer(tmp_path / "made up", tokens)
        tokenizer = load_tokenizer(folder)
        tokenizer.pad_token = pad_token
        tokenizer.save_pretrained(folder)
        tower = backbone.text_tower if tower_tokens == 600 and not arch else Backbone(config).text_tower
        load_fitting_tokenizer(folder, tower)

    return compare


@pytest.mark.parametrize("tokens", [600, 599, 400])
def test_a_vocabulary_may_be_padded(fitting, tokens: int) -> None:
    fitting(tokens)


@pytest.mark.parametrize("tokens", [601, 50_265, 399, 6])
def test_a_tokenizer_of_another_size_than_the_weights_is_named(fitting, tokens: int) -> None:
    with pytest.raises(ValueError, match=rf"the tokenizer .*made up doesn't fit the weights: it has {tokens:,} tokens"
                                         r" and they have 600 \(vocab_size\): give the tokenizer that they were"):
        fitting(tokens)


def test_an_id_beyond_the_embeddings_is_found_though_the_tokens_are_few(fitting, folder: Path, make_backbone) -> None:
    tokenizer = load_tokenizer(made_up_tokenizer(folder, 550))
    tokenizer.get_vocab = lambda: {"w1": 600}
    with pytest.raises(ValueError, match="it has 601 tokens and they have 600"):
        check_tokenizer(tokenizer, make_backbone().text_tower, "it")


def test_a_padding_that_the_positions_are_not_counted_from_is_named(fitting) -> None:
    with pytest.raises(ValueError, match=r"it pads with the id 3 and they with 1 \(pad_token_id\)"):
        fitting(600, pad_token="<unk>")
    fitting(600, pad_token="<unk>", model_type="bert")  # whose positions begin at 0 with any padding


@pytest.mark.parametrize("name, content, message", [
    ("tokenizer.json", "{,", r"tokenizer.json, line 1, column 2"),
    ("tokenizer.json", "[]", r"tokenizer.json: Expected `object`, got `array`"),
    ("tokenizer_config.json", "[1]", r"tokenizer_config.json: Expected `object`"),
    ("vocab.json", '{"a": "b"}', r"vocab.json: .*Expected `int`, got `str`"),
    ("merges.txt", "#version: 0.2\nÃ b c\n", r"merges.txt, line 2: not two tokens of vocab.json that make a third"),
])
def test_damaged_files_of_a_tokenizer_are_named(toy: Path, tmp_path: Path, name: str, content: str,
                                                message: str) -> None:
    shutil.copytree(toy / "tokenizer", tmp_path / "t")
    (tmp_path / "t" / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(str(tmp_path / "t"))


def test_no_code_beside_a_tokenizer_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks whether to run it"))
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["a.B", "a.B"]}, "tokenizer_class": '
                                                  '"B"}')
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(str(folder))

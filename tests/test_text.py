"""Tokenizers open from folders, and texts become ids of one length."""

import shutil
from pathlib import Path

import pytest
import torch
from egovlpv2.text import load_tokenizer, tokenize
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(["<pad>", "<unk>", "the", "cup"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(tmp_path)
    return tmp_path


def test_texts_are_padded_and_cut(folder: Path) -> None:
    text = tokenize(load_tokenizer(str(folder)), ["the cup", "the", "the cup the spoon the"], max_length=4)
    assert set(text) == {"input_ids", "attention_mask"}
    assert text["input_ids"].tolist() == [[2, 3, 0, 0], [2, 0, 0, 0], [2, 3, 2, 1]]
    assert text["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert text["input_ids"].dtype == text["attention_mask"].dtype == torch.int64


def test_no_texts(folder: Path) -> None:
    text = tokenize(load_tokenizer(str(folder)), [], max_length=4)
    assert text["input_ids"].shape == text["attention_mask"].shape == (0, 4)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no tokenizer: it needs tokenizer.json"):
        load_tokenizer(str(tmp_path))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no tokenizer .*save_pretrained"):
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

"""Tokenizers of families beyond BERT's: the token that represents a text, padding that is attended to, mask tokens."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import small_tokenizer

from egovlpv2.model.attention_maps import read_words
from egovlpv2.tokenization import check_tokenizer, load_tokenizer, mask_token_id, tokenize

WORDS = 60


def tower(**changes: Any) -> Any:
    """The facts of a text tower that a tokenizer must agree with."""
    facts = {"vocab_size": WORDS, "padding_id": None, "eos_id": None, "max_tokens": 16, "masks_padding": True}
    return SimpleNamespace(**(facts | changes))


@pytest.mark.parametrize("eos, message", [
    (58, None), (2, None),  # the latter is of older configurations: the highest id ends a text
    (57, r"its texts end with the id \[58\], and the state of the first token 57 \(eos_token_id\) represents a text"),
])
def test_texts_of_a_causal_tower_end_with_its_token(tmp_path: Path, eos: int, message: str | None) -> None:
    tokenizer = load_tokenizer(small_tokenizer(tmp_path, WORDS, end=58))
    if message is None:
        return check_tokenizer(tokenizer, tower(eos_id=eos), "mine")
    with pytest.raises(ValueError, match=f"the tokenizer mine doesn't fit the weights: {message}"):
        check_tokenizer(tokenizer, tower(eos_id=eos), "mine")


def test_texts_without_a_special_token_where_it_is_read_are_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(small_tokenizer(tmp_path / "end", WORDS, template="$A"))
    tokenizer.add_tokens(["a"])  # a word, where an unknown one would be a special token
    with pytest.raises(ValueError, match="its texts begin with a word"):
        check_tokenizer(tokenizer, tower(vocab_size=WORDS + 1), "mine")
    unknown = load_tokenizer(small_tokenizer(tmp_path / "unknown", WORDS, template="$A"))
    assert unknown("a")["input_ids"] == [unknown.unk_token_id]  # a word that is not known is a special token, too
    with pytest.raises(ValueError, match="its texts begin with a word"):
        check_tokenizer(unknown, tower(), "mine")
    twice = load_tokenizer(small_tokenizer(tmp_path / "twice", WORDS, end=58, template="</s> $A </s>"))
    with pytest.raises(ValueError, match="the state of the first token 58"):
        check_tokenizer(twice, tower(eos_id=58), "mine")
    unknown.padding_side = "left"
    with pytest.raises(ValueError, match="the tokenizer mine pads on the left"):
        check_tokenizer(unknown, tower(), "mine")
    with pytest.raises(ValueError, match="its texts end with the id"):
        check_tokenizer(tokenizer, tower(vocab_size=WORDS + 1, eos_id=5), "mine")
    check_tokenizer(tokenizer, tower(vocab_size=WORDS + 1, masks_padding=False), "mine")  # the last position is read


def test_texts_of_a_tower_that_attends_to_padding_have_its_length(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(small_tokenizer(tmp_path, WORDS))
    assert tokenize(tokenizer, ["w5 w6"], 9, "longest")["input_ids"].shape == (1, 4)
    assert read_words(tokenizer, "w5 w6", 9).text["input_ids"].shape == (1, 4)
    check_tokenizer(tokenizer, tower(masks_padding=False), "mine")
    for texts, padding in ((["w5 w6"], "longest"), (["w5", "w6 " * 40], "max_length")):
        text = tokenize(tokenizer, texts, 9, padding)
        assert text["input_ids"].shape == text["attention_mask"].shape == (len(texts), 16)
    assert text["attention_mask"].sum(1).tolist() == [3, 16]
    words = read_words(tokenizer, "w5 w6", 9)
    assert words.text["input_ids"].shape == (1, 16) and words.tokens == [[1], [2]]


def test_a_tokenizer_without_a_mask_token_needs_a_spare_embedding(tmp_path: Path) -> None:
    masked = load_tokenizer(small_tokenizer(tmp_path / "a", WORDS))
    assert mask_token_id(masked, tower()) == masked.mask_token_id == WORDS - 1
    bare = load_tokenizer(small_tokenizer(tmp_path / "b", WORDS, has_mask=False))
    assert bare.mask_token_id is None and mask_token_id(bare, tower()) == WORDS - 1
    with pytest.raises(ValueError, match=r"b has no mask token.*mlm_weight to 0, or vocab_size in text.arch to 60"):
        mask_token_id(bare, tower(vocab_size=WORDS - 1))

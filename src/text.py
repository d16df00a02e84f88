"""Words in: from strings to the ids that the text tower reads."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from egovlpv2.batch import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(name_or_path: str) -> "PreTrainedTokenizerBase":
    """Open a tokenizer of the `transformers` library.

    Args:
        name_or_path: A folder with what `save_pretrained` writes, or with RoBERTa's `vocab.json` and `merges.txt`
            alone; or a name on the Hugging Face hub such as `roberta-base`, which is downloaded once.

    Returns:
        The tokenizer, which has a padding token.

    Raises:
        ValueError: There is no such tokenizer, or it can't pad.
    """
    from transformers import AutoTokenizer, RobertaTokenizerFast  # takes seconds: not when this file is imported

    # Batches are tokenised in forked workers, where the Rust threads of the tokenizer would only warn and stop.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    files = {file.name for file in Path(name_or_path).glob("*.*")}
    plain_roberta = {"vocab.json", "merges.txt"} <= files and not files & {"tokenizer.json", "tokenizer_config.json"}
    try:
        tokenizer = (RobertaTokenizerFast if plain_roberta else AutoTokenizer).from_pretrained(name_or_path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(_missing(name_or_path)) from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer {name_or_path!r} has no padding token: set `pad_token` in its files.")
    return tokenizer


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int) -> Text:
    """Turn texts into ids, every one padded or cut to the same length.

    Args:
        tokenizer: What `load_tokenizer` gives.
        texts: The B texts; B may be 0.
        max_length: Ids of a text (L), the special ones included.

    Returns:
        `input_ids` and `attention_mask`, (B, L) int64.
    """
    if not texts:
        empty = torch.zeros(0, max_length, dtype=torch.int64)
        return Text(input_ids=empty, attention_mask=empty.clone())
    words = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=max_length, return_tensors="pt"
    )
    return Text(input_ids=words["input_ids"], attention_mask=words["attention_mask"])


def _missing(name_or_path: str) -> str:
    """The one-line answer to a tokenizer that isn't there."""
    if Path(name_or_path).is_dir():
        return (f"The folder {name_or_path} holds no tokenizer: it needs tokenizer.json and tokenizer_config.json, or "
                "RoBERTa's vocab.json and merges.txt.")
    return (
        f"There is no tokenizer {name_or_path!r}: no such folder, and the Hugging Face hub did not give one of that "
        "name. Offline, save it elsewhere with `AutoTokenizer.from_pretrained(name).save_pretrained(folder)` "
        "and name that folder; `make toy-data` writes the toy world's."
    )

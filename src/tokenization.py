"""Words in: from strings to the ids that the text tower reads."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from egovlpv2.batch import Text
from egovlpv2.io.schema import read_json, read_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from egovlpv2.model.text_tower import TextTower

# A vocabulary may be padded to a round number of embeddings (600 for the toy world's 462 to 531 words); BERT's 30,522
# words leave 39 % of RoBERTa's embeddings unused, and each of them would be taken for another.
_LEAST_SHARE = 2 / 3


def load_tokenizer(name_or_path: str) -> "PreTrainedTokenizerBase":
    """Open a tokenizer of the `transformers` library.

    Args:
        name_or_path: A folder with what `save_pretrained` writes, or with RoBERTa's `vocab.json` and `merges.txt`
            alone; or a name on the Hugging Face hub such as `roberta-base`, which is downloaded once.

    Returns:
        The tokenizer, which has a padding token.

    Raises:
        ValueError: There is no such tokenizer, its files are damaged, or it can't pad.
    """
    from transformers import AutoTokenizer, RobertaTokenizerFast  # takes seconds: not when this file is imported

    # Batches are tokenised in forked workers, where the Rust threads of the tokenizer would only warn and stop.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _check_files(Path(name_or_path))
    files = {file.name for file in Path(name_or_path).glob("*.*")}
    plain_roberta = {"vocab.json", "merges.txt"} <= files and not files & {"tokenizer.json", "tokenizer_config.json"}
    kind = RobertaTokenizerFast if plain_roberta else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # the library checks no shapes
        raise ValueError(_missing(name_or_path)) from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer {name_or_path!r} has no padding token: set `pad_token` in its files.")
    return tokenizer


def load_fitting_tokenizer(name_or_path: str, tower: "TextTower") -> "PreTrainedTokenizerBase":
    """Open a tokenizer whose ids a text tower can read; see `load_tokenizer` and `check_tokenizer`."""
    tokenizer = load_tokenizer(name_or_path)
    check_tokenizer(tokenizer, tower, name_or_path)
    return tokenizer


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", tower: "TextTower", name: str) -> None:
    """Refuse a tokenizer that doesn't fit a text tower.

    Args:
        tokenizer: What `load_tokenizer` gives.
        tower: The text tower; from its weights are the embeddings.
        name: What error messages call the tokenizer.

    Raises:
        ValueError: An id has no embedding, more than a third of the embeddings have no id, or the padding has another
            id than that from which the tower counts positions (RoBERTa's do).
    """
    words = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    told = f"the tokenizer {name} doesn't fit the weights: it has {words:,} words and they have {tower.vocab_size:,}"
    if words > tower.vocab_size or words < _LEAST_SHARE * tower.vocab_size:
        raise ValueError(f"{told} (vocab_size): give the tokenizer that they were trained with")
    if tower.padding_id is not None and tokenizer.pad_token_id != tower.padding_id:
        raise ValueError(f"the tokenizer {name} doesn't fit the weights: it pads with the id {tokenizer.pad_token_id} "
                         f"and they with {tower.padding_id} (pad_token_id): give the tokenizer that they were trained "
                         "with")


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int,
             padding: Literal["max_length", "longest"] = "max_length") -> Text:
    """Turn texts into ids, every one padded or cut to the same length.

    Args:
        tokenizer: What `load_tokenizer` gives.
        texts: The B texts; B may be 0.
        max_length: Most ids of a text, the special ones included.
        padding: Pad to `max_length` (L), or to the longest of the texts (L up to that).

    Returns:
        `input_ids` and `attention_mask`, (B, L) int64.
    """
    if not texts:
        empty = torch.zeros(0, max_length, dtype=torch.int64)
        return Text(input_ids=empty, attention_mask=empty.clone())
    words = tokenizer(
        list(texts), padding=padding, truncation=True, max_length=max_length, return_tensors="pt"
    )
    return Text(input_ids=words["input_ids"], attention_mask=words["attention_mask"])


def _check_files(folder: Path) -> None:
    """Refuse a folder whose tokenizer files are damaged; the library tells of some of that without their names."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name, dict[str, Any])
    if not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        return
    words = read_json(folder / "vocab.json", dict[str, int])
    for number, line in enumerate(read_lines(folder / "merges.txt"), 1):
        pair = line.split(" ")
        if not line.startswith("#version") and line and (len(pair) != 2 or not {*pair, "".join(pair)} <= words.keys()):
            raise ValueError(f"{folder / 'merges.txt'}, line {number}: not two words of vocab.json that make a third")


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

"""Tokenization: from strings to token ids of the text tower."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from egovlpv2.batch import Text
from egovlpv2.io.schema import read_json, read_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Embeddings are often padded to a round number (600 for the toy world's 462 to 531 tokens), so some may lack a token.
# Fewer tokens than this share mean another vocabulary: BERT's 30,522 cover 61 % of RoBERTa's embeddings, all wrongly.
_MIN_VOCABULARY_SHARE = 2 / 3


_LEGACY_EOS = 2  # of CLIP's older configurations, whose texts end at the highest id
Padding = Literal["max_length", "longest"]


class TokenEmbeddings(Protocol):
    """The facts of a text tower that a tokenizer must agree with."""

    vocab_size: int
    padding_id: int | None  # id from which positions are counted (RoBERTa); None where they don't depend on ids
    eos_id: int | None  # id of the token whose state represents a text (CLIP); None where it is the first token's
    max_tokens: int
    masks_padding: bool  # False where padding is attended to (SigLIP)


def load_tokenizer(name_or_path: str) -> "PreTrainedTokenizerBase":
    """Load a tokenizer of the `transformers` library.

    Args:
        name_or_path: A folder written by `save_pretrained`, a folder with RoBERTa's `vocab.json` and `merges.txt`, or a
            name on the Hugging Face hub such as `roberta-base`, which is downloaded once.

    Raises:
        ValueError: The tokenizer doesn't exist, its files are damaged, or it has no padding token.
    """
    from transformers import AutoTokenizer, RobertaTokenizerFast  # deferred: importing it takes seconds

    # Batches are tokenised in forked workers, where the tokenizer's Rust threads would be disabled with a warning.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _check_files(Path(name_or_path))
    files = {file.name for file in Path(name_or_path).glob("*.*")}
    plain_roberta = {"vocab.json", "merges.txt"} <= files and not files & {"tokenizer.json", "tokenizer_config.json"}
    kind = RobertaTokenizerFast if plain_roberta else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # it doesn't validate its files
        raise ValueError(_missing(name_or_path)) from error
    if tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer {name_or_path!r} has no padding token: set `pad_token` in its files.")
    return tokenizer


def load_fitting_tokenizer(name_or_path: str, tower: TokenEmbeddings) -> "PreTrainedTokenizerBase":
    """Load a tokenizer and check that it fits a text tower; see `load_tokenizer` and `check_tokenizer`."""
    tokenizer = load_tokenizer(name_or_path)
    check_tokenizer(tokenizer, tower, name_or_path)
    return tokenizer


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", tower: TokenEmbeddings, name: str) -> None:
    """Check that a tokenizer fits a text tower.

    Of a tower that attends to padding, texts must all have its length: the tokenizer pads to it from now on.

    Args:
        tokenizer: A tokenizer from `load_tokenizer`.
        tower: The text tower whose embeddings it indexes.
        name: Name of the tokenizer in error messages.

    Raises:
        ValueError: An id has no embedding, more than a third of the embeddings have no id, the padding id differs from
            the one that the tower counts positions from (RoBERTa), or a text doesn't begin or end with the special
            token whose state represents it.
    """
    tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    if tokens > tower.vocab_size or tokens < _MIN_VOCABULARY_SHARE * tower.vocab_size:
        raise ValueError(f"the tokenizer {name} doesn't fit the weights: it has {tokens:,} tokens and they have "
                         f"{tower.vocab_size:,} (vocab_size): give the tokenizer that they were trained with")
    if tower.padding_id is not None and tokenizer.pad_token_id != tower.padding_id:
        raise ValueError(f"the tokenizer {name} doesn't fit the weights: it pads with the id {tokenizer.pad_token_id} "
                         f"and they with {tower.padding_id} (pad_token_id): give the tokenizer that they were trained "
                         "with")
    _check_special_tokens(tokenizer, tower, name)
    if not tower.masks_padding:
        tokenizer.model_input_names, tokenizer.model_max_length = ["input_ids"], tower.max_tokens


def _check_special_tokens(tokenizer: "PreTrainedTokenizerBase", tower: TokenEmbeddings, name: str) -> None:
    """Check that the token whose state represents a text is in its place, by the tokens of an empty text."""
    ids = tokenizer("")["input_ids"]
    if tokenizer.padding_side != "right":
        raise ValueError(f"the tokenizer {name} pads on the left: set padding_side to right in its files")
    if tower.eos_id is not None:
        wanted = tower.eos_id if tower.eos_id != _LEGACY_EOS else max(ids, default=_LEGACY_EOS)  # see `TextTower.mask`
        if ids[-1:] != [wanted] or ids.index(wanted) != len(ids) - 1:
            raise ValueError(f"the tokenizer {name} doesn't fit the weights: its texts end with the id {ids[-1:]}, "
                             f"and the state of the first token {wanted} (eos_token_id) represents a text: give the "
                             "tokenizer that they were trained with")
    elif tower.masks_padding and not ids:
        raise ValueError(f"the tokenizer {name} doesn't fit the weights: its texts begin with a word, and the state of "
                         "the first token represents a text: give one that begins them with a special token")


def mask_token_id(tokenizer: "PreTrainedTokenizerBase", tower: TokenEmbeddings) -> int:
    """Look up the id of the mask token; if the tokenizer has none (CLIP's, SigLIP's), of an embedding without a token.

    Raises:
        ValueError: It has none, and every embedding has a token.
    """
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    if tower.eos_id == _LEGACY_EOS:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path} has no mask token, and with eos_token_id 2 the "
                         "highest id ends a text, which an additional one would be: set eos_token_id in text.arch to "
                         "its id")
    spare = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    if spare >= tower.vocab_size:
        raise ValueError(f"the tokenizer {tokenizer.name_or_path} has no mask token, which masked language modelling "
                         f"needs: set model.init_args.mlm_weight to 0, or vocab_size in text.arch to {spare + 1}, for "
                         "the embedding of one")
    return spare


def padding_of(tokenizer: "PreTrainedTokenizerBase", padding: Padding | Literal[False], max_tokens: int
               ) -> tuple[Padding | Literal[False], int]:
    """Padding and maximum length of texts: those asked for, or the model's, if it attends to padding (SigLIP's)."""
    if "attention_mask" in tokenizer.model_input_names:
        return padding, max_tokens
    return "max_length", int(tokenizer.model_max_length)


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_tokens: int,
             padding: Padding = "max_length") -> Text:
    """Tokenize texts, truncated and padded to a common length; for a model that attends to padding, to the model's.

    Args:
        tokenizer: A tokenizer from `load_tokenizer`.
        texts: B texts; B may be 0.
        max_tokens: Maximum number of tokens of a text, special tokens included.
        padding: Pad to `max_tokens`, or to the longest of the texts.

    Returns:
        `input_ids` and `attention_mask`, (B, L) int64.
    """
    filled, max_tokens = padding_of(tokenizer, padding, max_tokens)
    if not texts:
        empty = torch.zeros(0, max_tokens, dtype=torch.int64)
        return Text(input_ids=empty, attention_mask=empty.clone())
    encoded = tokenizer(list(texts), padding=filled, truncation=True, max_length=max_tokens, return_tensors="pt",
                        return_attention_mask=True)
    return Text(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])


def _check_files(folder: Path) -> None:
    """Check the files of a tokenizer; the library's own errors about damaged ones often don't name the file."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name, dict[str, Any])
    if not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        return
    vocabulary = read_json(folder / "vocab.json", dict[str, int])
    for number, line in enumerate(read_lines(folder / "merges.txt"), 1):
        pair = line.split(" ")
        if line.startswith("#version") or not line:
            continue
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise ValueError(f"{folder / 'merges.txt'}, line {number}: not two tokens of vocab.json that make a third")


def _missing(name_or_path: str) -> str:
    """Build the error message for a tokenizer that can't be loaded."""
    if Path(name_or_path).is_dir():
        return (f"The folder {name_or_path} holds no tokenizer: it needs tokenizer.json and tokenizer_config.json, or "
                "RoBERTa's vocab.json and merges.txt.")
    return (
        f"the tokenizer {name_or_path!r} can't be loaded: no such folder, and the Hugging Face hub did not give one of "
        "that name. Offline, save it elsewhere with `AutoTokenizer.from_pretrained(name).save_pretrained(folder)` "
        "and name that folder; `make toy-data` writes the toy world's, `make minilm` that of data/minilm."
    )

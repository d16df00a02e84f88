"""The toy world's tokenizer, of RoBERTa's kind, trained on the narrations."""

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

_CONFIG: dict[str, object] = {
    "tokenizer_class": "RobertaTokenizer", "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>",
    "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>",
    "add_prefix_space": False, "model_max_length": 512,
}


def learn_tokenizer(texts: list[str], vocab_size: int = 600) -> Tokenizer:
    """Train a byte-level BPE with RoBERTa's special tokens and their ids; `<mask>` is the last token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def write_tokenizer(texts: list[str], folder: Path, write: Callable[[Path, str], None]) -> None:
    """Write the files that `AutoTokenizer.from_pretrained(folder)` reads.

    Args:
        texts: Texts to train on.
        folder: The folder to write to.
        write: Writes a text into a file.
    """
    tokenizer = learn_tokenizer(texts)
    data = json.loads(tokenizer.to_str())
    vocab = {**data["model"]["vocab"], "<mask>": tokenizer.token_to_id("<mask>")}
    merges = [" ".join(pair) for pair in data["model"]["merges"]]
    special = {key: value for key, value in _CONFIG.items() if key.endswith("_token")}
    write(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False))
    write(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    write(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write(folder / "special_tokens_map.json", json.dumps(special, indent=1))
    write(folder / "tokenizer_config.json", json.dumps(_CONFIG, indent=1))

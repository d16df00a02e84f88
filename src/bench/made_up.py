"""Made-up inputs of the benchmarks."""

from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


def made_up_tokenizer(folder: str | Path, vocab_size: int) -> str:
    """Write a tokenizer of `w0`, `w1`, ... with RoBERTa's special tokens, and return its folder."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(vocab_size - 5)), "<mask>"]
    raw = RawTokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    raw.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    kinds = ("cls", "pad", "sep", "unk", "bos", "eos", "mask")
    special = dict(zip((f"{kind}_token" for kind in kinds), [*words[:4], "<s>", "</s>", "<mask>"], strict=True))
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return str(folder)

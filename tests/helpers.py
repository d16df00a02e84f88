"""Small models and batches, made on the spot."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from egovlpv2.batch import ClipBatch, Text
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.encoder import TextTowerConfig
from egovlpv2.model.vit import VideoTowerConfig

ROOT = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get("EGOVLPV2_REAL_DATA", "/nonexistent"))  # tests of real files are skipped without it
WORDS = 600
# Backbones that differ in how video and text meet.
KINDS = [*({"text_attends_to": reads, "fusion_cls": cls} for reads in ("current", "previous")
           for cls in ("shared", "own")), {"fusion": "stacked"}]


def make_config(tokenizer: str = "", depth: int = 3, frames: int = 4, **changes: Any) -> BackboneConfig:
    vit = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": depth, "num_heads": 2}
    bert = {"model_type": "roberta", "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": depth,
            "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 40, "type_vocab_size": 1}
    defaults = {"num_fused_layers": 2, "projector": [16, 16, 8]}
    return BackboneConfig(
        VideoTowerConfig("vit_tiny_patch16_224", vit, num_frames=frames, norm_eps=1e-5),
        TextTowerConfig(bert, tokenizer=tokenizer),
        **(defaults | changes),
    )


def draw_parameters(module: torch.nn.Module) -> None:
    """Draws all parameters, so that no zero hides a mistake."""
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if "alpha" in name else 0.15)
        if parameter.ndim == 1 and "norm" in name.lower() and name.endswith("weight"):
            parameter.data += 1


def small_tokenizer(folder: Path, words: int, end: int = 2, has_mask: bool = True, template: str = "<s> $A </s>"
                    ) -> str:
    """Write a tokenizer of `w0`, `w1`, ... with <s> 0, <pad> 1, </s> `end`, <unk> 3 and, last, <mask>."""
    names = [f"w{i}" for i in range(words)]
    names[0], names[1], names[3], names[end], names[-1] = "<s>", "<pad>", "<unk>", "</s>", "<mask>"
    special = {"bos_token": "<s>", "pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    if has_mask:
        special["mask_token"] = "<mask>"
    else:
        del names[-1]
    raw = RawTokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    raw.post_processor = TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", end)])
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return str(folder)


def make_text(batch: int, length: int = 7) -> Text:
    ids = torch.randint(5, WORDS - 1, (batch, length))
    mask = torch.ones(batch, length, dtype=torch.long)
    ids[:, 0], ids[0, -2:], mask[0, -2:] = 0, 1, 0
    return Text(input_ids=ids, attention_mask=mask)


def make_clips(batch: int, frames: int = 4, size: int = 32) -> ClipBatch:
    """A batch of noise with words and tags."""
    verbs, nouns = torch.zeros(batch, 118), torch.zeros(batch, 582)
    verbs[torch.arange(batch), torch.randint(0, 4, (batch,))] = 1
    nouns[torch.arange(batch), torch.randint(0, 6, (batch,))] = 1
    video = torch.randint(0, 256, (batch, frames, 3, size, size), dtype=torch.uint8)
    return ClipBatch(video=video, text=make_text(batch), verbs=verbs, nouns=nouns)


def only(data: LightningDataModule) -> Any:
    """The batch of a validation that has one."""
    (batch,) = data.val_dataloader()
    return batch


def run_on_two_processes(arguments: Sequence[str]) -> None:
    """`egovlpv2` with a task's arguments, on two processes of one thread each."""
    command = [sys.executable, "-m", "egovlpv2.cli", *arguments, "--trainer.devices=2", "--trainer.strategy=ddp"]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == 0

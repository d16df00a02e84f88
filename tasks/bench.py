"""What a pre-training step costs, and what sharing saves: `egovlpv2 bench step`."""

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from egovlpv2.batch import ClipBatch, Text
from egovlpv2.complexity import read_model_config
from egovlpv2.losses import contrastive, ego_positives, mask_words, match_pairs
from egovlpv2.model.backbone import Top
from egovlpv2.optim import OptimizerConfig, parameter_groups
from egovlpv2.tasks.pretrain import Pretrain
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedTokenizerFast

# A step of the authors' released code: 2 clips, float32, on 2 CPU cores (seconds, GB).
AUTHORS_STEP = ((23.0, 33.0), 16.0)


class UnsharedPretrain(Pretrain):
    """The same losses as each objective computes them alone: a whole pass, every output, nothing shared."""

    def objectives(self, batch: ClipBatch, generator: torch.Generator) -> dict[str, Tensor]:
        backbone = self.backbone
        dual = self._pass(batch["video"], batch["text"], gate=False)
        video_embeds = F.normalize(backbone.project_video(dual.video[:, 0]).float(), dim=-1)
        text_embeds = F.normalize(backbone.project_text(dual.text[:, 0]).float(), dim=-1)
        similarity = text_embeds @ video_embeds.T
        positives = ego_positives(batch["verbs"], batch["nouns"], self.positives)
        pairs = match_pairs(similarity.detach(), positives, self.negative_temperature, generator)
        words = Text(**{key: value[pairs.text] for key, value in batch["text"].items()})
        logits = backbone.match_logits(self._pass(batch["video"][pairs.video], words, gate=True))
        ids = batch["text"]["input_ids"]
        masked = mask_words(ids, ~torch.isin(ids, self.special_ids), self.mask_id, self.num_words, self.masked_share,
                            generator)
        states = self._pass(batch["video"], {**batch["text"], "input_ids": masked.input_ids}, gate=True).text
        target = torch.where(masked.chosen, ids, -100)
        return {"ego_nce": contrastive(similarity, positives, self.temperature),
                "vtm": F.cross_entropy(logits.float(), pairs.is_match),
                "mlm": F.cross_entropy(backbone.word_logits(states).flatten(0, 1).float(), target.flatten())}

    def _pass(self, video: Tensor, text: Text, gate: bool) -> Top:
        return self.backbone.top(self.backbone.trunk(video, text, gate), video.shape[1], gate)


def made_up_tokenizer(folder: str | Path, num_words: int) -> str:
    """Writes a tokenizer of `w0`, `w1`, ... with RoBERTa's special words, and returns its folder."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(num_words - 5)), "<mask>"]
    raw = RawTokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    kinds = ("cls", "pad", "sep", "unk", "bos", "eos", "mask")
    special = dict(zip((f"{kind}_token" for kind in kinds), [*words[:4], "<s>", "</s>", "<mask>"], strict=True))
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return str(folder)


def training_step(kind: type[Pretrain], config: Path, clips: int) -> Callable[[], None]:
    """A function that makes one step of pre-training on made-up clips: forward, backward, AdamW."""
    model = read_model_config(str(config))
    model.gradient_checkpointing = False
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        model.text.tokenizer = made_up_tokenizer(folder, model.text.resolve().vocab_size)
        task = kind(model, OptimizerConfig()).train()
    optimizer = torch.optim.AdamW(parameter_groups(task, OptimizerConfig()), fused=True)  # as `make_optimizer` has it
    side = task.backbone.video_tower.patch_embed.img_size[0]
    words = Text(input_ids=torch.randint(4, 500, (clips, 15)), attention_mask=torch.ones(clips, 15, dtype=torch.long))
    tags = torch.eye(118)[:clips], torch.eye(582)[:clips]
    video = torch.randint(0, 256, (clips, model.video.num_frames, 3, side, side), dtype=torch.uint8)
    batch = ClipBatch(video=video, text=words, verbs=tags[0], nouns=tags[1])

    def step() -> None:
        optimizer.zero_grad()
        losses = task.objectives(batch, torch.Generator().manual_seed(0))
        sum(task.loss_weights[name] * loss for name, loss in losses.items()).backward()
        optimizer.step()

    return step


def _measure(kind: type[Pretrain], config: Path, clips: int, repeats: int) -> tuple[float, float]:
    step, seconds = training_step(kind, config, clips), []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB -> GB
    return min(seconds[1:]), peak


def step_cost(kind: type[Pretrain], config: Path, clips: int, repeats: int) -> tuple[float, float]:
    """Seconds of the fastest step and peak resident GB, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, kind, config, clips, repeats).result()
        except BrokenProcessPool as error:
            raise ValueError(f"the step of {config} did not end; is {clips} clips too many for the memory?") from error


def bench_step(config: Path, clips: int, repeats: int) -> None:
    """Prints what sharing the trunk, and leaving out what nobody reads, saves in a step of pre-training."""
    (ours, memory), (alone, more) = (step_cost(kind, config, clips, repeats) for kind in (Pretrain, UnsharedPretrain))
    print(f"pre-training step, {config.stem}, {clips} clips, float32, {torch.get_num_threads()} threads: "
          f"{ours:.2f} s and {memory:.1f} GB; sharing nothing {alone:.2f} s and {more:.1f} GB: {alone / ours:.2f}x")
    if config.stem == "base" and clips == 2 and torch.get_num_threads() == 2:
        (fast, slow), peak = AUTHORS_STEP
        print(f"  the authors' step took {fast:.0f} to {slow:.0f} s and {peak:.0f} GB on 2 cores: "
              f"{fast / ours:.1f}x to {slow / ours:.1f}x, and {memory / peak:.2f} of its memory")


def main(argv: list[str] | None = None) -> None:
    """`egovlpv2 bench step`."""
    parser = argparse.ArgumentParser("egovlpv2 bench step", description="Seconds and memory of a pre-training step.")
    parser.add_argument("--config", type=Path, default=Path("conf/model/base.yaml"), help="the model")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="steps to take the fastest of")
    args = parser.parse_args(argv)
    bench_step(args.config, args.clips, args.repeats)

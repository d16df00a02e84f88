"""Cost of a pre-training step, and the saving by sharing: `egovlpv2 bench step`.

The share of the device's peak ("model FLOPs utilisation") counts what the model needs, not what a device may do beyond:
the matrix products of the forward pass (`egovlpv2 complexity`) three times, since the backward pass has two for each,
and no recomputation.
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from egovlpv2.analysis.complexity import complexity, read_model_config
from egovlpv2.batch import ClipBatch, Text
from egovlpv2.bench.measure import (
    UTILISATION,
    BenchOptions,
    Figure,
    alone,
    in_turn,
    matmul_speed,
    peak_gb,
    peak_tflops,
    precision_name,
    training_flops,
)
from egovlpv2.device import autocast
from egovlpv2.losses import ego_positives, mask_tokens, multi_positive_nce, sample_vtm_pairs
from egovlpv2.model.backbone import Top
from egovlpv2.model.config import BackboneConfig
from egovlpv2.optim import OptimizerConfig, parameter_groups
from egovlpv2.tasks.pretrain import Pretrain
from egovlpv2.types import Precision

TOKENS = 15  # of a text
_VERBS, _NOUNS = 118, 582


class UnsharedPretrain(Pretrain):
    """The same losses as each objective computes them alone: a whole pass, every output, nothing shared."""

    def objectives(self, batch: ClipBatch, generator: torch.Generator) -> dict[str, Tensor]:
        backbone = self.backbone
        dual = self._pass(batch["video"], batch["text"], gate=False)
        assert dual.video is not None and dual.text is not None
        video_embeds = F.normalize(backbone.project_video(dual.video[:, 0]).float(), dim=-1)
        text_embeds = F.normalize(backbone.project_text(dual.text[:, 0]).float(), dim=-1)
        similarity = text_embeds @ video_embeds.T
        positives = ego_positives(batch["verbs"], batch["nouns"], self.positives)
        pairs = sample_vtm_pairs(similarity.detach(), positives, self.negative_temperature, generator)
        ids, mask = batch["text"]["input_ids"], batch["text"]["attention_mask"]
        texts = Text(input_ids=ids[pairs.text], attention_mask=mask[pairs.text])
        logits = backbone.vtm_logits_from(self._pass(batch["video"][pairs.video], texts, gate=True))
        masked = mask_tokens(ids, ~torch.isin(ids, self.special_ids), self.mask_id, self.vocab_size, self.masked_share,
                            generator)
        states = self._pass(batch["video"], Text(input_ids=masked.input_ids, attention_mask=mask), gate=True).text
        assert states is not None
        target = torch.where(masked.chosen, ids, -100)
        return {"ego_nce": multi_positive_nce(similarity, positives, self.temperature),
                "vtm": F.cross_entropy(logits.float(), pairs.is_match),
                "mlm": F.cross_entropy(backbone.mlm_logits_from(states).flatten(0, 1).float(), target.flatten())}

    def _pass(self, video: Tensor, text: Text, gate: bool) -> Top:
        return self.backbone.top(self.backbone.trunk(video, text, gate), video.shape[1], gate)


def made_up_tokenizer(folder: str | Path, vocab_size: int) -> str:
    """Write a tokenizer of `w0`, `w1`, ... with RoBERTa's special tokens, and return its folder."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(vocab_size - 5)), "<mask>"]
    raw = RawTokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = WhitespaceSplit()
    kinds = ("cls", "pad", "sep", "unk", "bos", "eos", "mask")
    special = dict(zip((f"{kind}_token" for kind in kinds), [*words[:4], "<s>", "</s>", "<mask>"], strict=True))
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return str(folder)


def read_model(config: Path) -> BackboneConfig:
    """The model of a config, without gradient checkpointing."""
    model = read_model_config(str(config))
    model.gradient_checkpointing = False
    return model


def make_texts(count: int, device: torch.device) -> Text:
    """Random tokens of the smallest vocabulary."""
    ids = torch.randint(4, 500, (count, TOKENS), device=device)
    return Text(input_ids=ids, attention_mask=torch.ones_like(ids))


def make_videos(count: int, model: BackboneConfig, side: int, device: torch.device) -> Tensor:
    """Random frames in the loader's format, (count, T, 3, side, side) uint8."""
    return torch.randint(0, 256, (count, model.video.num_frames, 3, side, side), dtype=torch.uint8, device=device)


def training_step(kind: type[Pretrain], config: Path, clips: int, device: torch.device | None = None,
                  precision: Precision = "32") -> Callable[[], None]:
    """A function that runs one step of pre-training on random clips: forward, backward, AdamW."""
    model, device = read_model(config), device or torch.device("cpu")
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        model.text.tokenizer = made_up_tokenizer(folder, model.text.resolve().vocab_size)
        task = kind(model, OptimizerConfig()).train().to(device)
    optimizer = torch.optim.AdamW(parameter_groups(task, OptimizerConfig()), fused=True)  # as `make_optimizer` has it
    side, rows = task.backbone.video_tower.patch_embed.img_size[0], torch.arange(clips)
    batch = ClipBatch(video=make_videos(clips, model, side, device), text=make_texts(clips, device),
                      verbs=F.one_hot(rows % _VERBS, _VERBS).float().to(device),
                      nouns=F.one_hot(rows % _NOUNS, _NOUNS).float().to(device))
    context = autocast(precision, device)

    def step() -> None:
        optimizer.zero_grad()
        with context:
            losses = task.objectives(batch, torch.Generator().manual_seed(0))
            total = reduce(torch.add, (task.loss_weights[name] * loss for name, loss in losses.items()))
        total.backward()
        optimizer.step()

    return step


class Cost(NamedTuple):
    """Cost of one step."""

    seconds: float
    gb: float  # peak memory
    matmul: float  # FLOP/s of one large product, in the same process


def _measure(kind: type[Pretrain], options: BenchOptions, clips: int) -> Cost:
    device = torch.device(options.device)
    rounds, repeats = (options.repeats, 5) if device.type == "cuda" else (1, 1)
    step = training_step(kind, options.config, clips, device, options.precision)
    in_turn([step], 1, repeats, device)  # warms up
    seconds, memory = in_turn([step], rounds, repeats, device)[0], peak_gb(device)
    return Cost(seconds, memory, matmul_speed(device, options.precision))


def step_cost(kind: type[Pretrain], options: BenchOptions, clips: int) -> Cost:
    """Measure a step in a process of its own.

    Raises:
        ValueError: The clips don't fit the memory.
    """
    try:
        return alone(_measure, kind, options, clips)
    except (BrokenProcessPool, torch.OutOfMemoryError) as error:
        raise ValueError(f"the step of {options.config} did not end; are {clips} clips too many for the memory? Give a "
                         "smaller --batch-size") from error


def best_batch(options: BenchOptions) -> tuple[int, list[Figure]]:
    """The batch size of most clips a second, and what each gives; those that don't fit the memory are left out."""
    if len(options.batch_size) == 1:
        return options.batch_size[0], []
    rates: dict[int, float] = {}
    for clips in tqdm(options.batch_size, "batch sizes", leave=False):
        try:
            rates[clips] = clips / step_cost(Pretrain, options, clips).seconds
        except ValueError as error:
            if clips == min(options.batch_size):
                raise
            tqdm.write(f"{clips} clips are left out: {error}", file=sys.stderr)
    figures = [Figure("step", f"{clips} clips a step", rate, "clips/s") for clips, rate in rates.items()]
    return max(rates, key=rates.__getitem__), figures


def _in_turn(options: BenchOptions, clips: int) -> tuple[Cost, Cost | None]:
    """Ours, and sharing nothing, each time in a new process; the latter needs more memory and may not fit."""
    rounds = 1 if options.device.startswith("cuda") else options.repeats  # on a GPU the process has rounds of its own
    ours, unshared = [], []
    for _ in tqdm(range(rounds), "rounds", leave=False):
        ours.append(step_cost(Pretrain, options, clips))
        try:
            unshared.append(step_cost(UnsharedPretrain, options, clips))
        except ValueError as error:
            tqdm.write(f"sharing nothing is left out: {error}", file=sys.stderr)
            return _best(ours), None
    return _best(ours), _best(unshared)


def _best(costs: Sequence[Cost]) -> Cost:
    return Cost(min(c.seconds for c in costs), max(c.gb for c in costs), max(c.matmul for c in costs))


def measure(options: BenchOptions) -> list[Figure]:
    """Measure a pre-training step against its bounds and against one that shares nothing."""
    clips, figures = best_batch(options)
    ours, unshared = _in_turn(options, clips)
    model = read_model(options.config)
    name = f"a step, {options.config.stem}, {clips} clips, {precision_name(options.precision)}"
    flops = training_flops(complexity(model, model.video.num_frames, TOKENS)["gmacs"]["ours"]) * clips
    floor = flops / ours.matmul
    figures += [Figure("step", name, ours.seconds, "s", f"matmul: {flops / 1e12:.3g} TFLOP as one large product "
                       f"{floor:.3g} s", ours.seconds / floor),
                Figure("step", "rate of a step", clips / ours.seconds, "clips/s"),
                Figure("step", "peak memory of a step", ours.gb, "GB")]
    if unshared is not None:
        figures += [Figure("step", "a step against sharing nothing", ours.seconds, "s",
                           f"matmul: {unshared.seconds:.3g} s", ours.seconds / unshared.seconds),
                    Figure("step", "its memory against sharing nothing", ours.gb, "GB",
                           f"memory: {unshared.gb:.3g} GB", ours.gb / unshared.gb)]
    return figures + _share_of_peak(options, flops / ours.seconds / 1e12)


def _share_of_peak(options: BenchOptions, tflops: float) -> list[Figure]:
    """Model FLOPs utilisation, where the device's peak is known."""
    peak = peak_tflops(options, torch.device(options.device))
    if peak is not None:
        return [Figure("step", UTILISATION, 100 * tflops / peak, "%", f"matmul: peak of {peak:.3g} TFLOP/s",
                       tflops / peak)]
    if options.device.startswith("cuda"):
        tqdm.write("the peak of this GPU at this precision is not known: give it as --peak-tflops", file=sys.stderr)
    return []

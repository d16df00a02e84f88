"""Cost of a pre-training step, and the saving by sharing: `egovlpv2 bench step`.

The share of the device's peak ("model FLOPs utilisation") counts what the model needs, not what a device may do beyond:
the matrix products of the forward pass (`egovlpv2 complexity`) three times, since the backward pass has two for each,
and no recomputation.
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from egovlpv2.analysis.complexity import complexity, read_model_config
from egovlpv2.batch import ClipBatch, Text
from egovlpv2.bench.made_up import made_up_tokenizer
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
from egovlpv2.gradients import Cut
from egovlpv2.losses import ego_positives, mask_tokens, multi_positive_nce
from egovlpv2.model.config import BackboneConfig
from egovlpv2.model.outputs import Top
from egovlpv2.optim import OptimizerConfig, parameter_groups
from egovlpv2.tasks.matching import draw_pairs
from egovlpv2.tasks.pretrain import Objectives, Pretrain
from egovlpv2.types import Precision, StepVariant

TOKENS = 15  # of a text
_VERBS, _NOUNS = 118, 582


class UnsharedPretrain(Pretrain):
    """The same losses as each objective computes them alone: a whole pass, every output, nothing shared."""

    def objectives(self, batch: ClipBatch, generator: torch.Generator, at_a_time: int | None = None
                   ) -> Objectives:
        backbone = self.backbone
        assert not self.center_embeddings, "only a plain normalisation is computed here"
        dual = self._pass(batch["video"], batch["text"], gate=False)
        assert dual.video is not None and dual.text is not None
        video_embeds = F.normalize(backbone.project_video(dual.video_cls).float(), dim=-1)
        text_embeds = F.normalize(backbone.project_text(dual.text_cls).float(), dim=-1)
        similarity = text_embeds @ video_embeds.T
        positives = ego_positives(batch["verbs"], batch["nouns"], self.positives)
        pairs = draw_pairs(similarity, positives, self.sampling_temperature, generator, self.negatives_by,
                           self.pairs_per_clip)
        ids, mask = batch["text"]["input_ids"], batch["text"]["attention_mask"]
        texts = Text(input_ids=ids[pairs.text], attention_mask=mask[pairs.text])
        logits = backbone.vtm_logits_from(self._pass(batch["video"][pairs.video], texts, gate=True))
        masked = mask_tokens(ids, ~torch.isin(ids, self.special_ids), self.mask_id, self.vocab_size, self.masked_share,
                            generator)
        states = self._pass(batch["video"], Text(input_ids=masked.input_ids, attention_mask=mask), gate=True).text
        assert states is not None
        target = torch.where(masked.chosen, ids, -100)
        losses = {"ego_nce": multi_positive_nce(similarity, positives, self.temperature),
                  "vtm": F.cross_entropy(logits.float(), pairs.is_match),
                  "mlm": F.cross_entropy(backbone.mlm_logits_from(states).flatten(0, 1).float(), target.flatten())}
        return Objectives(torch.stack([self.loss_weights[name] * losses[name] for name in losses]).sum(), losses)

    def _pass(self, video: Tensor, text: Text, gate: bool) -> Top:
        return self.backbone.top(self.backbone.trunk(video, text, gate), video.shape[1], gate)


class OneGraph(Cut):
    """No cut: the caller differentiates all objectives together at the end."""

    def share(self, x: Tensor) -> Tensor:
        return x

    def backward(self, loss: Tensor, weight: float) -> Tensor:
        self._value = self._value + weight * loss
        return loss.detach()


class OneGraphPretrain(Pretrain):
    """The same computation with the activations of all objectives in memory together."""

    cut = OneGraph


class Variant(NamedTuple):
    """A way of computing a step."""

    kind: type[Pretrain] = Pretrain
    changes: tuple[tuple[str, Any], ...] = ()  # of the backbone's configuration
    at_a_time: int | None = None  # see `Pretrain.objectives`


OURS = Variant()
VARIANTS: dict[StepVariant, Variant] = {
    "unshared": Variant(UnsharedPretrain), "one_graph": Variant(OneGraphPretrain),
    "compiled": Variant(changes=(("compile", True),)),
    "trunk_anew": Variant(changes=(("gradient_checkpointing", "trunk"),)),
    "all_anew": Variant(changes=(("gradient_checkpointing", True),)),
}
_NAMES: dict[StepVariant, str] = {
    "unshared": "sharing nothing", "one_graph": "all objectives' activations together",
    "compiled": "one that is compiled",
    "trunk_anew": "the trunk's blocks computed anew", "all_anew": "all blocks computed anew",
}


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


def training_step(variant: Variant, config: Path, clips: int, device: torch.device | None = None,
                  precision: Precision = "32") -> Callable[[], None]:
    """A function that runs one step of pre-training on random clips: forward, backward, AdamW."""
    model, device = replace(read_model(config), **dict(variant.changes)), device or torch.device("cpu")
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        model.text.tokenizer = made_up_tokenizer(folder, model.text.resolve().vocab_size)
        task = variant.kind(model, OptimizerConfig()).train().to(device)
    optimizer = torch.optim.AdamW(parameter_groups(task, OptimizerConfig()), fused=True)  # as `make_optimizer` has it
    side, rows = task.backbone.video_tower.patch_embed.img_size[0], torch.arange(clips)
    batch = ClipBatch(video=make_videos(clips, model, side, device), text=make_texts(clips, device),
                      verbs=F.one_hot(rows % _VERBS, _VERBS).float().to(device),
                      nouns=F.one_hot(rows % _NOUNS, _NOUNS).float().to(device))
    context = autocast(precision, device)

    def step() -> None:
        optimizer.zero_grad()
        with context:
            total = task.objectives(batch, torch.Generator().manual_seed(0), variant.at_a_time).total
        total.backward()
        optimizer.step()

    return step


class Cost(NamedTuple):
    """Cost of one step."""

    seconds: float
    gb: float  # peak memory
    matmul: float  # FLOP/s of one large product, in the same process


def _measure(variant: Variant, options: BenchOptions, clips: int) -> Cost:
    device = torch.device(options.device)
    rounds, repeats = (options.repeats, 5) if device.type == "cuda" else (1, 1)
    step = training_step(variant, options.config, clips, device, options.precision)
    in_turn([step], 1, repeats, device)  # warms up
    seconds, memory = in_turn([step], rounds, repeats, device)[0], peak_gb(device)
    return Cost(seconds, memory, matmul_speed(device, options.precision))


def step_cost(variant: Variant, options: BenchOptions, clips: int) -> Cost:
    """Measure a step: on a CPU in a process of its own, whose peak memory is then the step's.

    Raises:
        ValueError: The clips don't fit the memory.
    """
    try:
        if not options.device.startswith("cuda"):
            return alone(_measure, variant, options, clips)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(options.device)
        return _measure(variant, options, clips)
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
            rates[clips] = clips / step_cost(OURS, options, clips).seconds
        except ValueError as error:
            if clips == min(options.batch_size):
                raise
            tqdm.write(f"{clips} clips are left out: {error}", file=sys.stderr)
    figures = [Figure("step", f"{clips} clips a step", rate, "clips/s") for clips, rate in rates.items()]
    return max(rates, key=rates.__getitem__), figures


def _in_turn(options: BenchOptions, clips: int) -> tuple[Cost, dict[StepVariant, Cost]]:
    """Ours and the variants in turn; a variant that needs more memory may not fit."""
    rounds = 1 if options.device.startswith("cuda") else options.repeats  # on a GPU each step has rounds of its own
    ours: list[Cost] = []
    others: dict[StepVariant, list[Cost]] = {name: [] for name in options.variants}
    for _ in tqdm(range(rounds), "rounds", leave=False):
        ours.append(step_cost(OURS, options, clips))
        for name in list(others):
            try:
                others[name].append(step_cost(VARIANTS[name], options, clips))
            except ValueError as error:
                tqdm.write(f"{_NAMES[name]} is left out: {error}", file=sys.stderr)
                del others[name]
    return _best(ours), {name: _best(costs) for name, costs in others.items()}


def _best(costs: Sequence[Cost]) -> Cost:
    return Cost(min(c.seconds for c in costs), max(c.gb for c in costs), max(c.matmul for c in costs))


def measure(options: BenchOptions) -> list[Figure]:
    """Measure a pre-training step against its bounds and against other ways of computing it."""
    clips, figures = best_batch(options)
    ours, others = _in_turn(options, clips)
    model = read_model(options.config)
    name = f"a step, {options.config.stem}, {clips} clips, {precision_name(options.precision)}"
    flops = training_flops(complexity(model, model.video.num_frames, TOKENS)["gmacs"]["ours"]) * clips
    floor = flops / ours.matmul
    figures += [Figure("step", name, ours.seconds, "s", f"matmul: {flops / 1e12:.3g} TFLOP as one large product "
                       f"{floor:.3g} s", ours.seconds / floor),
                Figure("step", "rate of a step", clips / ours.seconds, "clips/s"),
                Figure("step", "peak memory of a step", ours.gb, "GB")]
    for variant, other in others.items():
        figures += [Figure("step", f"a step against {_NAMES[variant]}", ours.seconds, "s", f"{other.seconds:.3g} s",
                           ours.seconds / other.seconds),
                    Figure("step", f"its memory against {_NAMES[variant]}", ours.gb, "GB", f"{other.gb:.3g} GB",
                           ours.gb / other.gb)]
    if options.contrastive_batch is not None:
        figures += _large_batch(options, clips, ours)
    return figures + _share_of_peak(options, flops / ours.seconds / 1e12)


def _large_batch(options: BenchOptions, clips: int, small: Cost) -> list[Figure]:
    """A step of many clips, some at a time, against a step of as many as these."""
    assert options.contrastive_batch is not None
    cost = step_cost(Variant(at_a_time=clips), options, options.contrastive_batch)
    name = f"{options.contrastive_batch} clips, {clips} at a time"
    return [Figure("step", f"memory of a step of {name}", cost.gb, "GB", f"{clips} clips: {small.gb:.3g} GB",
                   cost.gb / small.gb),
            Figure("step", f"rate of a step of {name}", options.contrastive_batch / cost.seconds, "clips/s",
                   f"{clips} clips: {clips / small.seconds:.3g} clips/s",
                   options.contrastive_batch / cost.seconds * small.seconds / clips)]


def _share_of_peak(options: BenchOptions, tflops: float) -> list[Figure]:
    """Model FLOPs utilisation, where the device's peak is known."""
    peak = peak_tflops(options, torch.device(options.device))
    if peak is not None:
        return [Figure("step", UTILISATION, 100 * tflops / peak, "%", f"matmul: peak of {peak:.3g} TFLOP/s",
                       tflops / peak)]
    if options.device.startswith("cuda"):
        tqdm.write("the peak of this GPU at this precision is not known: give it as --peak-tflops", file=sys.stderr)
    return []

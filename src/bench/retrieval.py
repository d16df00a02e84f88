"""Cost of evaluating EPIC-Kitchens-100 retrieval at full size: `egovlpv2 bench retrieval`."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from egovlpv2.bench.measure import BenchOptions, Figure, alone, peak_gb
from egovlpv2.metrics.ranking import multi_instance_retrieval
from egovlpv2.metrics.relevancy import Relevancy

CLIPS, SENTENCES, LABELS = 9668, 3842, 2000

Labels = tuple[list[int], list[list[int]], list[int], list[list[int]]]


def made_up_labels() -> Labels:
    """As many as the test data have, of as many kinds."""
    rng = np.random.default_rng(0)
    kinds = [(int(rng.integers(97)), rng.choice(300, rng.integers(1, 4), replace=False).tolist())
             for _ in range(LABELS)]
    clips, sentences = (rng.integers(LABELS, size=n) for n in (CLIPS, SENTENCES))
    return ([kinds[i][0] for i in clips], [kinds[i][1] for i in clips],
            [kinds[i][0] for i in sentences], [kinds[i][1] for i in sentences])


def ours(similarity: Tensor, labels: Labels) -> dict[str, float]:
    return multi_instance_retrieval(similarity, Relevancy.of_labels(*labels).full())


def plain_loop(similarity: Tensor, labels: Labels) -> dict[str, float]:
    """The same definitions, a query at a time."""
    verbs, nouns, sentence_verbs, sentence_nouns = labels
    relevancy, others = np.zeros(similarity.shape), [set(row) for row in sentence_nouns]
    for i, (verb, row) in enumerate(zip(verbs, map(set, nouns), strict=True)):
        relevancy[i] = [0.5 * (verb == v) + 0.5 * len(row & n) / len(row | n)
                        for v, n in zip(sentence_verbs, others, strict=True)]
    numbers: dict[str, float] = {}
    for name, scores, relevant in (("v2t", similarity.numpy(), relevancy), ("t2v", similarity.numpy().T, relevancy.T)):
        precisions, gains = [], []
        places = np.arange(1, scores.shape[1] + 1)
        for query, fits in zip(scores, relevant, strict=True):
            ranked, ideal = fits[np.argsort(-query)], np.sort(fits)[::-1]
            hits, counted = ranked == 1, (ideal > 0) / np.log2(places + 1)
            precisions.append((np.cumsum(ranked) / places)[hits].mean() if hits.any() else np.nan)
            gains.append((ranked * counted).sum() / (ideal * counted).sum() if counted.any() else np.nan)
        numbers |= {f"map_{name}": 100 * np.nanmean(precisions), f"ndcg_{name}": 100 * np.nanmean(gains)}
    return numbers


def _measure(evaluate: Callable[[Tensor, Labels], dict[str, float]]) -> tuple[float, float, dict[str, float]]:
    labels, similarity = made_up_labels(), torch.rand(CLIPS, SENTENCES, generator=torch.Generator().manual_seed(0))
    begin = time.perf_counter()
    numbers = evaluate(similarity, labels)
    return time.perf_counter() - begin, peak_gb(), numbers


def measure(options: BenchOptions) -> list[Figure]:
    """Seconds and memory of both, relevancy included, each in a process of its own."""
    (seconds, memory, numbers), (slow, more, same) = (
        alone(_measure, evaluate) for evaluate in tqdm((ours, plain_loop), "ways", leave=False))
    assert all(abs(numbers[name] - value) < 1e-4 for name, value in same.items()), (numbers, same)
    what = f"EPIC-Kitchens-100, {CLIPS:,} x {SENTENCES:,}, relevancy included"
    return [Figure("retrieval", what, seconds, "s", f"memory: a plain loop {slow:.1f} s", seconds / slow),
            Figure("retrieval", "peak memory of EPIC-Kitchens-100", memory, "GB", f"memory: a plain loop {more:.2f} GB",
                   memory / more)]

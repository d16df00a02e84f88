"""Clips of moment queries in all their features, of which training sees random windows, as for ActionFormer.

Letters: `C` width of features, `T` steps in time, `G` moments of a clip.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from egovlpv2.data_modules.grounding import FeatureRows, clip_lag
from egovlpv2.data_modules.moments import Moments
from egovlpv2.features import FeatureFolder, Features
from egovlpv2.features.clips import ClipSpan

_SHORTEST_WINDOW = 0.9  # of a clip that fits in a window
_LEAST_LEFT = 0.3  # of a moment's length that a window must hold
_DRAWS = 200  # of a window, until it holds a moment


class MQSample(NamedTuple):
    """A clip with its features and moments."""

    row: int
    clip: str
    features: Tensor  # (C, T) float32
    segments: Tensor  # (G, 2) steps
    classes: Tensor  # (G,)
    step_seconds: float
    first_seconds: float  # of the clip at step 0
    duration: float


class CroppedClips(FeatureRows):
    """Clips whose features stay as they are; the time of a step is the middle of its feature's window.

    Args:
        clips: The clips with features.
        read: Reads the features of a clip.
        folder: The folder of the features.
        classes: Numbers of the labels.
        num_steps: Length of the longest window in training; None: clips are whole.
        min_seconds: Moments that are shorter are left out of training.
        seed: Of the windows.
    """

    def __init__(self, clips: list[Moments], read: Callable[[ClipSpan], Features], folder: FeatureFolder,
                 classes: dict[str, int], num_steps: int | None = None, min_seconds: float = 0.0, seed: int = 0
                 ) -> None:
        super().__init__(clips, read)
        self.folder, self.classes, self.num_steps = folder, classes, num_steps
        self.min_seconds, self.seed = min_seconds, seed

    def __getitem__(self, key: int | tuple[int, int]) -> MQSample | None:
        whole: MQSample | None = super().__getitem__(key)
        if self.num_steps is None or whole is None or not isinstance(key, tuple):
            return whole
        recipe = self.folder.recipe
        half_window = 0.5 * recipe.window / recipe.fps * recipe.rate  # steps
        return crop(whole, self.num_steps, half_window, np.random.default_rng((self.seed, *key)))

    def sample(self, row: int) -> MQSample:
        """The whole clip."""
        clip: Moments = self.rows[row]
        features, recipe = self.read(clip.span), self.folder.recipe
        first = 0.5 * recipe.window / recipe.fps - clip_lag(self.folder, clip.span)
        training = self.num_steps is not None
        kept = [one for one in clip.instances if not training or one[2] - one[1] >= self.min_seconds]
        times = torch.tensor([times for _, *times in kept], dtype=torch.float64).reshape(-1, 2)
        segments = ((times - first) * recipe.rate).float()
        classes = torch.tensor([self.classes[label] for label, *_ in kept], dtype=torch.int64)
        return MQSample(row, clip.span.clip, features.values.float().T, segments, classes, 1 / recipe.rate, first,
                        features.duration)


def crop(sample: MQSample, num_steps: int, half_window: float, rng: np.random.Generator) -> MQSample:
    """Draw a window of a clip until it holds a moment, up to 200 times.

    A clip longer than `num_steps` gets a window of that length, a shorter one a window of 90 to 100 % of its own.

    Args:
        sample: The clip.
        num_steps: Length of the longest window.
        half_window: Half of the length of a feature's window, in steps: moments may end so far outside.
        rng: The random numbers.

    Returns:
        The window, with the moments of which at least 30 % are in it.
    """
    total = sample.features.shape[1]
    length = num_steps if total > num_steps else int(rng.integers(max(round(_SHORTEST_WINDOW * total), 1), total + 1))
    if length == total:
        return sample
    start, end = sample.segments.unbind(1)  # (G,)
    for _ in range(_DRAWS):
        first = int(rng.integers(0, total - length + 1))
        left, right = start.clamp(min=first - half_window), end.clamp(max=first + length + half_window)
        stays = (right - left >= _LEAST_LEFT * (end - start)) & (right > left)  # (G,)
        if stays.any():
            break
    return sample._replace(
        features=sample.features[:, first : first + length], segments=torch.stack([left, right], 1)[stays] - first,
        classes=sample.classes[stays], first_seconds=sample.first_seconds + first * sample.step_seconds,
    )

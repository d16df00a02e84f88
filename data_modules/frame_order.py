"""Orders of a clip's frames in evaluation: a probe of how much a model uses time."""

from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from egovlpv2.types import FrameOrder


def arrange(frames: Tensor, order: FrameOrder, key: str) -> Tensor:
    """Arrange the frames (T, 3, H, W) of a clip in another order.

    Args:
        frames: In the order of time.
        order: `forward`: as they are; `backward`: the last one first; `shuffled`: a permutation that is a function of
            the key, and not the order of time where there is more than one frame; `frozen`: the middle frame T times.
        key: Seed and name of the clip.
    """
    if order == "forward":
        return frames
    if order == "backward":
        return frames.flip(0)
    if order == "frozen":
        return frames[len(frames) // 2].expand_as(frames).contiguous()
    return frames[torch.from_numpy(_permutation(len(frames), key))]


def _permutation(count: int, key: str) -> np.ndarray:
    """Draw a permutation other than the identity, which one element alone has."""
    rng, identity = np.random.default_rng(crc32(key.encode(errors="surrogateescape"))), np.arange(count)
    order = identity
    while count > 1 and (order == identity).all():
        order = rng.permutation(count)
    return order

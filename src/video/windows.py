"""Sliding windows over a video."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egovlpv2.types import FrameRuleName
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import VideoError
from egovlpv2.video.frame_rules import EGOCLIP_RATE, released_windows, windows
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform


@dataclass(frozen=True)
class Windows:
    """Windows that slide over a video.

    Args:
        fps: Frame rate in which `window` and `stride` are counted.
        window: Length of a window, in such frames.
        stride: Distance between the starts of windows, in such frames.
        frames: Number of frames read from a window.
        size: Their height and width, pixels.
        chunk_seconds: Length of chunks, for a video that is a folder of them.
        frame_rule: `centre`: frames at the centres of equal segments of a window; `released`: the windows of the
            released code, about 1.87 a second, in its readers' colours.
    """

    fps: float
    window: int
    stride: int
    frames: int
    size: int
    chunk_seconds: float
    frame_rule: FrameRuleName = "centre"

    def count(self, duration: float) -> int:
        """Count the windows that lie within a video of `duration` seconds; at least one, which may be cut short."""
        if self.frame_rule == "released":
            return released_windows(duration, self.frames)
        return max(int((duration * self.fps - self.window) / self.stride + 1e-6) + 1, 1)

    def read(self, source: VideoSource, duration: float, first: int, count: int) -> Tensor:
        """Read the frames of windows `first` to `first + count`: (count, T, 3, H, W) uint8."""
        times = self._times(source, duration, first, count)
        order = np.argsort(times, kind="stable")  # windows may overlap, and ascending times are read fastest
        clip = source.read(times[order], EvalTransform(self.size, rgb_first=self.frame_rule == "released"),
                           self.chunk_seconds)
        frames = torch.empty_like(clip.frames)
        frames[torch.from_numpy(order)] = clip.frames
        return frames.unflatten(0, (count, self.frames))

    def _times(self, source: VideoSource, duration: float, first: int, count: int) -> NDArray[np.float64]:
        """Compute the frame times of windows `first` to `first + count`: (count * T,) seconds."""
        if self.frame_rule == "released":
            rate = source.rate
            if abs(rate / EGOCLIP_RATE - 1) > 0.01:
                raise VideoError(f"{source.files[0]} has {rate:g} frames a second, and the released windows count 30: "
                                 "encode it at 30, or leave --frame-rule out")
            numbers = windows(0.0, duration, self.frames, max(round(duration * rate), 1))[first : first + count]
            return (numbers.flatten().astype(np.float64) + 0.5) / rate  # halfway through the display of each
        starts = np.arange(first, first + count) * self.stride / self.fps
        ends = np.minimum(starts + self.window / self.fps, duration)
        return np.concatenate([uniform_times(start, end, self.frames) for start, end in zip(starts, ends, strict=True)])

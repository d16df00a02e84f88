"""Rules for the frames that are shown of a clip: evenly in time, or by frame numbers as the released code counts them.

A rule is a function of a clip, the number of frames and a random generator. It returns times in seconds of the whole
video: in the middle of equal segments without a generator, and at random within them with one.

The released code cuts a clip into segments of whole frames, takes the middle one of each (rounded down), and shows the
frame before it where it reads with OpenCV. Frame numbers count from 0; frame `i` is shown from `i / rate` on.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from egovlpv2.types import FrameRuleName
from egovlpv2.video.decode import VideoInfo
from egovlpv2.video.sampling import jittered_times, uniform_times

EGOCLIP_RATE = 30  # frames a second that the released code assumes for EgoClip's and Ego4D's videos
WINDOW_RATE = 1.87  # windows a second of the released features for NLQ and MQ

Times = NDArray[np.float64]  # (T,) seconds
Frames = NDArray[np.int64]  # (T,) numbers of frames


class Span(NamedTuple):
    """A clip of a video.

    Args:
        start: Seconds of the video.
        end: Seconds of the video, not beyond the end of one in one file.
        annotated_end: The end in the annotation; infinite for the video's end.
        info: Returns the number and properties of a chunk's file for a chunk number, those of the last chunk if the
            number lies beyond it; a video in one file is chunk 0.
    """

    start: float
    end: float
    annotated_end: float
    info: Callable[[int], tuple[int, VideoInfo]]


class FrameRule(Protocol):
    """A function that chooses the times of a clip's frames."""

    def __call__(self, clip: Span, num_frames: int, rng: np.random.Generator | None = None) -> Times: ...


def centre(clip: Span, num_frames: int, rng: np.random.Generator | None = None) -> Times:
    """Choose times at the centres of equal segments of the clip, or at random within them."""
    if rng is None:
        return uniform_times(clip.start, clip.end, num_frames)
    return jittered_times(clip.start, clip.end, num_frames, rng)


def egoclip(clip: Span, num_frames: int, rng: np.random.Generator | None = None, chunk_seconds: float = 600.0
            ) -> Times:
    """Choose times in a video in chunks, as the released code of EgoClip and EgoMCQ does, at 30 frames a second.

    A frame number beyond the last frame of the last chunk, or less than a second beyond that of another, shows that
    frame. Where the released code looks for frame 0 of a chunk in the chunk before, 600 s too early, this rule shows
    the frame itself.

    Args:
        chunk_seconds: Length of a chunk.
    """
    numbers = padded(segments(int(EGOCLIP_RATE * max(clip.start, 0.0)), int(EGOCLIP_RATE * clip.end), num_frames, rng),
                     num_frames)
    of_chunk = round(EGOCLIP_RATE * chunk_seconds)  # frames
    times = np.empty(num_frames)
    for k, number in enumerate(numbers):
        chunk, local = divmod(max(int(number), 0), of_chunk)
        found, info = clip.info(chunk)
        if found == chunk and local / EGOCLIP_RATE > info.duration and clip.info(chunk + 1)[0] > chunk:
            seconds = local / EGOCLIP_RATE  # a chunk too short, and another follows: far beyond its end, reading raises
        else:
            local = min(local, info.frames) if found == chunk else info.frames
            seconds = (max(local - 1, 0) + 0.5) / info.rate  # halfway through the display of the frame before
        times[k] = found * chunk_seconds + seconds
    return times


def charades(clip: Span, num_frames: int, rng: np.random.Generator | None = None) -> Times:
    """Choose times in a video in one file, as the released code of CharadesEgo does, at the file's frame rate."""
    _, info = clip.info(0)
    first, last = max(0, int(clip.start * info.rate)), min(_until(clip.annotated_end, info, int), info.frames)
    numbers = padded(segments(first, last, num_frames, rng), num_frames)
    return _times(np.clip(numbers - 1, 0, info.frames - 1), info)


def ek100(clip: Span, num_frames: int, rng: np.random.Generator | None = None) -> Times:
    """Choose times in a video in one file, as the released code of EPIC-Kitchens-100 does."""
    _, info = clip.info(0)
    first, last = round(info.rate * clip.start), _until(clip.annotated_end, info, lambda frames: int(np.ceil(frames)))
    bounds = np.round((last - first - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64) + first
    low, high = bounds[:-1], np.minimum(bounds[1:], last)
    numbers = (low + high) // 2 if rng is None else rng.integers(np.minimum(low, high), np.maximum(low, high) + 1)
    return _times(np.clip(numbers, 0, info.frames - 1), info)


def taskqa(clip: Span, num_frames: int, rng: np.random.Generator | None = None) -> Times:
    """Choose times in a whole video in one file, as the released code of EgoTaskQA does."""
    _, info = clip.info(0)
    numbers = padded(segments(0, info.frames, num_frames, rng), num_frames)
    return _times(np.clip(numbers, 0, info.frames - 1), info)


def windows(start: float, end: float, num_frames: int, video_frames: int) -> Frames:
    """Compute the frame numbers of a clip's windows, as the released code extracts features for NLQ and MQ.

    Args:
        start: Where the clip begins, seconds.
        end: Where it ends, seconds.
        num_frames: Frames of a window.
        video_frames: Frames of the video.

    Returns:
        (windows, num_frames); about 1.87 windows a second, and at least one.
    """
    sampled = max(int((end - start) * WINDOW_RATE * num_frames + 1), num_frames)
    bounds = _bounds(max(0.0, EGOCLIP_RATE * start), min(video_frames, EGOCLIP_RATE * end), sampled)
    numbers = np.clip(_middles(bounds), 0, video_frames - 1)
    return numbers[: sampled // num_frames * num_frames].reshape(-1, num_frames)  # a remainder is dropped


def released_windows(seconds: float, num_frames: int) -> int:
    """Count the windows that `windows` returns for a clip of `seconds`."""
    return max(int(seconds * WINDOW_RATE * num_frames + 1), num_frames) // num_frames


def segments(first: float, last: float, count: int, rng: np.random.Generator | None = None) -> Frames:
    """Choose a frame number from each of `count` equal segments, fewer if there are fewer frames before `last`.

    Args:
        first: Where the first segment begins, a frame number.
        last: Where the last one ends; not below `first`.
        count: Number of segments.
        rng: Draws a frame of each; None takes the middle one, rounded down, and the one before an empty segment.
    """
    bounds = _bounds(first, last, max(min(count, int(last)), 1))
    if rng is None:
        return _middles(bounds)
    return rng.integers(bounds[:-1], np.maximum(bounds[1:] - 1, bounds[:-1] + 1))  # never a segment's last frame


def padded(numbers: Frames, count: int) -> Frames:
    """Repeat the last number until there are `count`."""
    return np.concatenate([numbers, np.repeat(numbers[-1:], count - len(numbers))])


def _bounds(first: float, last: float, count: int) -> Frames:
    return np.linspace(first, last, count + 1).astype(np.int64)


def _middles(bounds: Frames) -> Frames:
    return (bounds[:-1] + bounds[1:] - 1) // 2


def _until(end: float, info: VideoInfo, to_number: Callable[[float], int]) -> int:
    return to_number(end * info.rate) if np.isfinite(end) else info.frames


def _times(numbers: Frames, info: VideoInfo) -> Times:
    """Compute times halfway through the display of frames, in seconds of their file."""
    return (numbers.astype(np.float64) + 0.5) / info.rate


def find_rule(name: FrameRuleName, released: FrameRule | None) -> FrameRule:
    """Return the rule of a name.

    Args:
        name: `centre` or `released`.
        released: The data set's own rule in the released code.

    Raises:
        ValueError: There is no rule of that name.
    """
    rules = {"centre": centre} | ({} if released is None else {"released": released})
    if name not in rules:
        raise ValueError(f"data.init_args.frame_rule={name}: give one of {', '.join(rules)}")
    return rules[name]

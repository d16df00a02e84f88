"""Campaign of damaged videos: they are shown as a sequential decode shows them, or refused by name."""

import signal
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from arbiter import quiet
from test_sequential import B3, OPEN, write

from egovlpv2.video.container import VideoError, open_video
from egovlpv2.video.reader import VideoFile

VIDEOS = 200
KINDS = [("mp4", "libx264", B3), ("mkv", "libx264", B3), ("webm", "libvpx", {}), ("webm", "libvpx-vp9", {}),
         ("avi", "mpeg4", {"bf": "2"}), ("avi", "libx264", B3), ("ts", "libx264", B3),
         ("mpg", "mpeg2video", {"bf": "2"}), ("mp4", "mpeg4", {}),
         ("mkv", "libx264", OPEN), ("ts", "mpeg2video", {"bf": "2"}), ("flv", "flv", {})]
Frames = list[tuple[int | None, np.ndarray]]
quiet()


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut off the end, zero a range or take one out."""
    broken, place = bytearray(data), int(rng.integers(len(data)))
    many = int(2 ** rng.uniform(2, 10))
    match rng.integers(4):
        case 0:
            for place in rng.integers(0, len(broken), int(2 ** rng.uniform(0, 6))):
                broken[place] ^= 1 << int(rng.integers(8))
        case 1:
            del broken[max(place, len(data) // 10) :]
        case 2:
            broken[place : place + many] = bytes(len(broken[place : place + many]))
        case 3:
            del broken[place : place + many]
    return bytes(broken)


def pixels(frame: av.VideoFrame) -> np.ndarray:
    """Return the data of a frame as bytes."""
    rows = [np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            for plane in frame.planes]
    return np.concatenate([plane.ravel() for plane in rows])


def decode_all(path: Path) -> Frames:
    """Decode presentation times in ticks and pixels of all frames, skipping errors."""
    container, stream = open_video(path)
    found: Frames = []
    try:
        for packet in container.demux(stream):
            try:
                found += [(frame.pts, pixels(frame)) for frame in stream.codec_context.decode(packet)]
            except av.FFmpegError:
                continue
    except av.FFmpegError:
        pass
    container.close()
    return found


def judge(video: VideoFile, seconds: float, frames: Frames) -> str:
    """Classify the result for a time: refused, shown, another time's frame, or another picture of that frame."""
    try:
        frame = video.frame_at(seconds)
    except VideoError as error:
        assert video.path.name in str(error) and "\n" not in str(error)
        return "refused"
    shown = pixels(frame)
    if video.counting is not None:  # the file's times don't tell
        return "shown" if any(np.array_equal(shown, other) for _, other in frames) else "another picture"
    tick = video._tick_at(seconds)
    known = [stamp for stamp, _ in frames if stamp is not None]
    expected = max((stamp for stamp in known if stamp <= tick), default=min(known))
    if frame.pts != expected:
        return "another frame"
    same = any(np.array_equal(shown, other) for stamp, other in frames if stamp == expected)
    return "shown" if same else "another picture"


@pytest.mark.slow
def test_mutated_videos_are_shown_as_decoded_or_refused(tmp_path: Path) -> None:
    whole = [write(tmp_path / f"{i}.{kind[0]}", *kind[1:], gop=12).read_bytes() for i, kind in enumerate(KINDS)]
    outcomes: Counter[str] = Counter()
    hang = signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a hang ends the tests
    for number in range(VIDEOS):
        rng = np.random.default_rng([14, number])
        path = tmp_path / f"mutated_{number}.{KINDS[number % len(KINDS)][0]}"
        path.write_bytes(mutate(whole[number % len(KINDS)], rng))
        signal.alarm(60)
        try:
            video = VideoFile(path)
        except VideoError as error:
            assert path.name in str(error) and "\n" not in str(error)
            outcomes["refused when opened"] += 1
            continue
        frames = decode_all(path)
        outcomes.update(judge(video, float(time), frames) for time in (0.0, *rng.uniform(0, 2.2, 8)))
        video.close()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, hang)
    print(dict(outcomes))
    assert outcomes["shown"] > 500 and outcomes["refused when opened"] < VIDEOS / 2
    # FFmpeg conceals some damage without a word, from what it has decoded so far: after seeking that is less.
    assert outcomes["another frame"] + outcomes["another picture"] <= outcomes["shown"] // 200, outcomes

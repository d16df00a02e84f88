"""The frames, boxes, pixels and token ids that the released code feeds the model, on videos whose frames are numbered.

`golden/inputs.json` has the figures; each was printed by the released code.
"""

import json
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from helpers import REAL_DATA, ROOT
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from egovlpv2.data_modules.charades_ego import CharadesEgoDataModule
from egovlpv2.data_modules.clips import ClipReader
from egovlpv2.data_modules.egomcq import EgoMCQDataModule
from egovlpv2.data_modules.ek100 import EK100DataModule
from egovlpv2.data_modules.taskqa import TaskQADataModule
from egovlpv2.tokenization import load_tokenizer, tokenize
from egovlpv2.video.collection import VideoSource
from egovlpv2.video.container import VideoError
from egovlpv2.video.decode import read_frames
from egovlpv2.video.frame_rules import windows
from egovlpv2.video.transforms import EvalTransform
from egovlpv2.video.windows import Windows

GOLDEN = json.loads((ROOT / "tests" / "golden" / "inputs.json").read_text())
SIDE, BITS = 64, 16  # pixels; 4 x 4 blocks tell a number


def write_numbered(path: Path, count: int, rate: str | int, first: int = 0) -> Path:
    """A video of 64 x 64 px whose frames show their numbers in binary: white blocks for ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = 1 / Fraction(rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", Fraction(rate), options={"preset": "ultrafast", "g": "250"})
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.codec_context.time_base = "gray", base
        for place in range(count):
            blocks = ((first + place >> np.arange(BITS)) & 1).reshape(4, 4) * 200 + 28
            picture = np.kron(blocks, np.ones((SIDE // 4, SIDE // 4))).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            frame.pts, frame.time_base = place, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(frames: torch.Tensor) -> list[int]:
    """The numbers that frames (T, 3, 64, 64) show."""
    blocks = frames.float().mean(1).unflatten(1, (4, -1)).unflatten(3, (4, -1)).mean((2, 4)).flatten(1)  # (T, 16)
    return ((blocks > 128).long() << torch.arange(BITS)).sum(1).tolist()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str | int], Path]:
    """A function that gives the video of so many frames, and writes each once."""
    folder = tmp_path_factory.mktemp("numbered")

    def video(count: int, rate: str | int) -> Path:
        path = folder / f"{count}-{rate}.mp4".replace("/", "_")
        return path if path.exists() else write_numbered(path, count, rate)

    return video


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the video `v`, chunks of 18,000 and 3,000 frames."""
    root = tmp_path_factory.mktemp("chunks")
    for k, count in enumerate((18_000, 3_000)):
        write_numbered(root / "videos" / "v" / f"{k}.mp4", count, 30, 18_000 * k)
    return root


def of(name: str) -> list[dict[str, Any]]:
    """The cases of a data set."""
    return [case for case in GOLDEN["frames"] if case["data"].startswith(name)]


def case_id(case: dict[str, Any]) -> str:
    return f"{case['case']} {case['num_frames']}"


def reader_of(make: type, root: Path, rule: str, num_frames: int) -> ClipReader:
    data = make(str(root), videos="", num_frames=num_frames, size=SIDE, frame_rule=rule)
    return data.reader(num_frames)


@pytest.mark.parametrize("case", of("EgoMCQ"), ids=case_id)
def test_frames_of_egomcq(chunks: Path, case: dict[str, Any]) -> None:
    clip, count = ("v", case["clip_start"], case["clip_end"]), case["num_frames"]
    clip = ("v", max(clip[1], 0.0), clip[2])  # as the questions are read
    reader = partial(EgoMCQDataModule, str(chunks), num_frames=count, size=SIDE)
    released = reader(frame_rule="released").reader(count).evaluate(*clip)
    if case["requested"] is None:  # theirs is black; the clip ends after the video, which here goes on with its end
        assert numbers(released.frames) == [20_999] * count and released.beyond_video
        return
    # Where theirs takes frame 0 of a chunk for one of the chunk before, 600 s too early.
    expected = [18_000 if want == 18_000 else got for want, got in zip(case["requested"], case["shown"], strict=True)]
    assert numbers(released.frames) == expected
    centre = reader().reader(count).evaluate(*clip)
    shift = np.array(numbers(centre.frames)) - expected
    assert shift.min() >= 0 and shift.max() <= 3  # frames; theirs are 2 earlier in the mean
    assert released.beyond_video == centre.beyond_video == (case["clip_end"] > 701)


@pytest.mark.parametrize("case", of("CharadesEgo"), ids=case_id)
def test_frames_of_charades_ego(videos: Callable[..., Path], case: dict[str, Any]) -> None:
    path, count = videos(int(case["video"].split()[3]), case["fps"]), case["num_frames"]
    clip = (path.name, 0.0, float("inf"))
    shown = numbers(reader_of(CharadesEgoDataModule, path.parent, "released", count).evaluate(*clip).frames)
    there = len(case["shown"])
    assert shown[:there] == case["shown"] and set(shown[there:]) <= {case["shown"][-1]}  # theirs are grey there


@pytest.mark.parametrize("case", of("EK-100"), ids=case_id)
def test_frames_of_ek100(videos: Callable[..., Path], case: dict[str, Any]) -> None:
    path, count = videos(int(case["video"].split()[3]), case["fps"]), case["num_frames"]
    clip = (path.name, case["clip_start"], case["clip_end"])
    assert numbers(reader_of(EK100DataModule, path.parent, "released", count).evaluate(*clip).frames) == case["shown"]
    shift = np.array(numbers(reader_of(EK100DataModule, path.parent, "centre", count).evaluate(*clip).frames))
    assert np.abs(shift - case["shown"]).max() <= 1


@pytest.mark.parametrize("case", GOLDEN["windows"], ids=lambda case: case["case"])
def test_windows_of_features(case: dict[str, Any]) -> None:
    found = windows(case["clip_start"], case["clip_end"], case["num_frames"], case["video_frames"])
    assert len(found) == case["windows"]
    assert found[0].tolist() == case["first_window"] and found[1].tolist() == case["second_window"]
    assert found[-1].tolist() == case["last_window"]
    place, frames = case["middle_window"]
    assert found[place].tolist() == frames


def test_an_extraction_shows_the_released_windows(videos: Callable[..., Path]) -> None:
    path = videos(1800, 30)
    source, looking = VideoSource("v", (path,), False), Windows(30.0, 16, 16, 4, SIDE, 600.0, "released")
    expected = windows(0.0, 60.0, 4, 1800)
    assert looking.count(60.0) == len(expected) == 112
    found = looking.read(source, 60.0, 50, 3)
    assert [numbers(window) for window in found] == expected[50:53].tolist()


@pytest.mark.parametrize("name", ["EgoClip", "EK-100", "EgoTaskQA"])
def test_training_draws_a_frame_of_each_segment(videos: Callable[..., Path], chunks: Path, name: str) -> None:
    rng, count = np.random.default_rng(0), 4
    if name == "EgoClip":
        reader, clip = EgoMCQDataModule(str(chunks), size=SIDE, frame_rule="released").reader(count), ("v", 10.0, 11.0)
        bounds, least, most = [300, 307, 315, 322, 330], -1, -3  # shown is the frame before the one that is drawn
    elif name == "EK-100":
        path = videos(1800, 30)
        reader, clip = reader_of(EK100DataModule, path.parent, "released", count), (path.name, 10.0, 11.0)
        bounds, least, most = [300, 307, 314, 322, 329], 0, 0
    else:
        path = videos(1800, 30)
        reader, clip = reader_of(TaskQADataModule, path.parent, "released", count), (path.name, 0.0, float("inf"))
        bounds, least, most = [0, 450, 900, 1350, 1800], 0, -2
    times = np.array([reader.rule(reader.video(clip[0]).span(*clip[1:]), count, rng) for _ in range(2000)])  # (n, 4)
    drawn = np.floor(times * 30).astype(int)
    assert (drawn.min(0) == np.array(bounds[:-1]) + least).all() or name == "EgoTaskQA"
    assert (drawn.max(0) == np.array(bounds[1:]) + most).all() or name == "EgoTaskQA"
    assert (drawn >= np.array(bounds[:-1]) + least).all() and (drawn <= np.array(bounds[1:]) + most).all()


def test_a_short_clip_is_trained_on(chunks: Path) -> None:
    """The released code shows black and grey where a segment has fewer than two frames."""
    reader = EgoMCQDataModule(str(chunks), size=SIDE, frame_rule="released").reader(4)
    assert reader.train("v", 10.0, 10.14, np.random.default_rng(0)).shape == (4, 3, SIDE, SIDE)
    found = np.floor(reader.rule(reader.video("v").span(10.0, 10.14), 4, np.random.default_rng(0)) * 30)
    assert found.tolist() == [299, 300, 301, 302]


def test_a_clip_that_begins_in_a_missing_chunk_is_not_shown(chunks: Path) -> None:
    for rule in ("centre", "released"):
        with pytest.raises(VideoError, match="2.mp4 is missing"):
            EgoMCQDataModule(str(chunks), size=SIDE, frame_rule=rule).reader(4).evaluate("v", 1300.0, 1301.0)


def test_an_unknown_rule_is_named(chunks: Path) -> None:
    with pytest.raises(ValueError, match="frame_rule=theirs: give one of centre, released"):
        EgoMCQDataModule(str(chunks), frame_rule="theirs")


@pytest.mark.parametrize("case", GOLDEN["crop_boxes"], ids=lambda case: f"{case['height']}x{case['width']}")
@pytest.mark.parametrize(("name", "crop"), [("all_but_ek100", EvalTransform(224)), ("ek100", EvalTransform(224, 224))])
def test_boxes(case: dict[str, Any], name: str, crop: EvalTransform) -> None:
    box = crop(case["height"], case["width"])
    for side, value in case[name].items():
        # Theirs of 640 x 480 px in EK-100 is 481.07 wide, of a picture scaled to 298 x 224.
        assert abs(getattr(box, side) - value) < (1.1 if side in ("height", "width") else 1.0), (side, value, box)


@pytest.mark.parametrize("case", GOLDEN["pixels"]["cases"], ids=lambda case: f"{case['height']}x{case['width']}")
@pytest.mark.parametrize(("name", "crop"), [("test_transform", EvalTransform(224)), ("ek100_test",
                                                                                    EvalTransform(224, 224))])
def test_pixels(tmp_path: Path, case: dict[str, Any], name: str, crop: EvalTransform) -> None:
    y, x, c = np.ogrid[: case["height"], : case["width"], :3]
    picture = ((3 * x + 5 * y + 40 * c) % 256).astype(np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:  # without loss
        stream = container.add_stream("ffv1", 30)
        stream.height, stream.width, stream.pix_fmt = case["height"], case["width"], "bgr0"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture).reformat(format="bgr0")))
        container.mux(stream.encode(None))
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    shown = (read_frames(tmp_path / "a.mkv", [0.0], crop).frames[0] / 255 - mean) / std  # (3, 224, 224)
    found = torch.stack([shown[:, row, column] for row, column in case["places"]])
    # Where the picture's values jump from 255 to 0, ours is smoothed and theirs is not.
    smooth = torch.tensor([np.ptp(_around(picture, crop, *place), axis=(0, 1)) < 100 for place in case["places"]])
    assert (found - torch.tensor(case[name])).abs()[smooth].max() < 0.05 and smooth.float().mean() > 0.6


def _around(picture: np.ndarray, crop: EvalTransform, row: int, column: int) -> np.ndarray:
    """The part of a picture (H, W, 3) that a place of what is shown may be made of."""
    box = crop(*picture.shape[:2])
    y, x = (int(begin + (place + 0.5) * side / 224)
            for begin, place, side in ((box.top, row, box.height), (box.left, column, box.width)))
    return picture[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5].astype(int)


@pytest.mark.skipif(not (REAL_DATA / "tokenizers" / "roberta").is_dir(), reason="RoBERTa's vocabulary is not here")
@pytest.mark.parametrize("case", GOLDEN["tokens"], ids=lambda case: f"{case['data']} {case['text'][:20]}")
def test_tokens(case: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(str(REAL_DATA / "tokenizers" / "roberta"))
    limit = re.search("max_length ([0-9]+)", case["call"])
    length, padding = (int(limit[1]), "max_length") if limit else (77, "longest")
    assert tokenize(tokenizer, [case["text"]], length, padding)["input_ids"][0].tolist() == case["ids"]


@pytest.mark.parametrize("rule", ["centre", "released"])
def test_a_clip_that_ends_chunks_after_its_video_goes_on_with_the_last_frame(chunks: Path, rule: str) -> None:
    found = EgoMCQDataModule(str(chunks), size=SIDE, frame_rule=rule).reader(4).evaluate("v", 650.0, 3000.0)
    assert numbers(found.frames)[-1] == 20_999 and found.beyond_video


@pytest.mark.parametrize("rule", ["centre", "released"])
def test_a_cut_off_chunk_is_not_shown_as_a_still_picture(tmp_path: Path, rule: str) -> None:
    for k, count in enumerate((300, 200, 300)):
        write_numbered(tmp_path / "videos" / "v" / f"{k}.mp4", count, 30, 300 * k)
    reader = EgoMCQDataModule(str(tmp_path), size=SIDE, frame_rule=rule, chunk_seconds=10.0).reader(4)
    assert numbers(reader.evaluate("v", 20.0, 24.0).frames) == (
        [615, 645, 675, 705] if rule == "centre" else [613, 643, 673, 703])
    with pytest.raises(VideoError, match="1.mp4 ends at 6.667 s, before .*data.init_args.chunk_seconds"):
        reader.evaluate("v", 17.0, 19.0)

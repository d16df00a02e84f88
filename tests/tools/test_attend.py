"""`egovlpv2 attend`: what words look at in any video, at any size."""

import os
import re
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run
from helpers import make_clips
from PIL import Image
from torch import nn
from video.numbered_videos import write_video

from egovlpv2 import load_backbone
from egovlpv2.checkpoints.weights import resize_frames, save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.model.attention_maps import Attention, Words, attend_words, read_words, text_layers
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import load_tokenizer, tokenize
from egovlpv2.tools.attend import pick_rows, pool
from egovlpv2.video.decode import read_clip, read_frames
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import CropBox
from egovlpv2.viz.attention import Strip, draw_attention, overlay
from egovlpv2.viz.figures import png

TEXT = "w10 w20 w30"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Four seconds of 48 x 80 px that change."""
    draw = np.random.default_rng(0)
    return write_video(tmp_path / "film.mp4", fps=8, pictures=[
        np.kron(draw.integers(0, 256, (6, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(32)])


def command(video: Path, weights: Path, *more: object) -> list[str]:
    return ["attend", str(video), "--weights", str(weights), "--text", TEXT, "--device", "cpu", "--max-tokens", "9",
            *map(str, more)]


def table(printed: str) -> dict[str, list[float]]:
    """By row: shares of CLS and of each frame in %, and the peak."""
    rows = re.findall(r"^(\S.*?)  +([\d.]+)%  +((?:[\d.]+%\s+)+)peak (\S+) x even$", printed, re.MULTILINE)
    return {name: [float(cls), *(float(share.rstrip("%")) for share in shares.split()), float(peak)]
            for name, cls, shares, peak in rows}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


@torch.inference_mode()
def seen(weights: Path, frames: torch.Tensor, layer: int = 2, heads: list[int] | None = None) -> Attention:
    backbone = load_backbone(weights, len(frames), tuple(frames.shape[-2:]))
    words = read_words(load_tokenizer(backbone.config.text.tokenizer), TEXT, 9)
    return attend_words(backbone, frames, words, {layer: text_layers(backbone)[layer]}, heads)


def test_a_row_a_word_and_one_of_all(weights: Path, video: Path, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "a.png"
    cli(command(video, weights, "--out", out, "--start", 1, "--end", 3, "--num-frames", 3))
    printed = capsys.readouterr().out
    expected = seen(weights, read_clip(video, 1, 3, 3, 32).frames)
    alpha = load_backbone(weights).text_tower.blocks[2].fusion.alpha.item()
    assert f"mean of all heads; layer 2, gate α {alpha:.3g}; match {expected.match:.3f}" in printed
    assert "looking at 3 frames of 32 x 32 px, the middle square\n" in printed
    rows = table(printed)
    assert list(rows) == ["w10", "w20", "w30", "pooled"]
    maps = expected.patches[:, 0]  # (W, T, h, w)
    for i, values in enumerate(rows.values()):
        one = maps[i] if i < 3 else maps.mean(0)
        cls = expected.cls[i, 0] if i < 3 else expected.cls[:, 0].mean()
        percent = [100 * cls.item(), *(100 * one.sum((1, 2))).tolist()]
        assert values == pytest.approx([*percent, one.max().item() * (3 * 4 + 1)], rel=0.01, abs=0.06)
        assert sum(values[:-1]) == pytest.approx(100, abs=0.3)
    height, width, _ = pixels(out).shape
    assert width > 900 and height > 1200 and os.listdir(out.parent) == ["a.png"]


def test_the_picture_depends_on_the_text(weights: Path, video: Path, tmp_path: Path) -> None:
    for name, text in (("a", TEXT), ("b", "w44 w55 w66"), ("c", TEXT)):
        cli(command(video, weights, "--out", tmp_path / f"{name}.png", "--text", text, "--words", "pooled"))
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert (a == c).all() and a.shape == b.shape
    below = slice(100, None)  # the title tells the text anyway
    assert (abs(a - b)[below].max(-1) > 20).mean() > 0.02  # more than the few numbers that are written


def test_layers_and_heads_of_ones_own_choice(weights: Path, video: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    frame = read_clip(video, 0, 4, 1, 32).frames
    cli(command(video, weights, "--out", tmp_path / "a.png", "--num-frames", 1, "--heads", "all", "--words", "W20",
                "--layers", 1))
    rows = table(capsys.readouterr().out)
    assert list(rows) == [f"w20, head {head}" for head in range(4)]
    expected = seen(weights, frame, 1, [0, 1, 2, 3])
    assert [values[0] for values in rows.values()] == pytest.approx((100 * expected.cls[1]).tolist(), abs=0.06)
    cli(command(video, weights, "--out", tmp_path / "b.png", "--layers", "all", "--heads", 3, 0, "--words", "w30",
                "pooled"))
    rows = table(capsys.readouterr().out)
    assert list(rows) == [f"{word}, layer {layer}, head {head}" for word in ("w30", "pooled") for layer in (1, 2)
                          for head in (3, 0)]
    cli(command(video, weights, "--out", tmp_path / "c.png", "--heads", 2, "--words", "pooled"))
    printed = capsys.readouterr().out
    assert list(table(printed)) == ["pooled"] and "heads 2; layer 2, gate" in printed


def test_a_stacked_model_has_no_gate(make_backbone: Callable[..., Backbone], tokenizer: str, video: Path,
                                     tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = tmp_path / "stacked.safetensors", tmp_path / "a.png"
    save_backbone(make_backbone(tokenizer=tokenizer, fusion="stacked"), weights)
    cli(command(video, weights, "--out", out, "--layers", 0, 1, "--words", "w20"))
    printed = capsys.readouterr().out
    assert "layer 0, no gate; layer 1, no gate" in printed and list(table(printed)) == ["w20, layer 0", "w20, layer 1"]
    with pytest.raises(SystemExit, match="--layers 2: words look at the video in the layers 0, 1"):
        cli(command(video, weights, "--out", out, "--layers", 2))


def test_a_closed_gate_is_told(make_backbone: Callable[..., Backbone], tokenizer: str, video: Path, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    backbone = make_backbone(tokenizer=tokenizer)
    nn.init.zeros_(backbone.text_tower.blocks[2].fusion.alpha)
    save_backbone(backbone, tmp_path / "new.safetensors")
    cli(command(video, tmp_path / "new.safetensors", "--out", tmp_path / "a.png"))
    assert "layer 2, gate α 0 (so that it changes nothing); match" in capsys.readouterr().out


def test_larger_frames(weights: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(command(video, weights, "--out", tmp_path / "a.png", "--size", 64, "--num-frames", 1))
    printed = capsys.readouterr().out
    assert "1 frame of 64 x 64 px, the middle square, enlarged from 48 px" in printed
    expected = seen(weights, read_clip(video, 0, 4, 1, 64).frames)
    assert expected.patches.shape[-2:] == (4, 4)
    assert table(printed)["w20"][-1] == pytest.approx(expected.patches[1].max().item() * 17, rel=0.01)
    cli(command(video, weights, "--out", tmp_path / "b.png", "--size", 48, "--whole", "--words", "w20"))
    printed = capsys.readouterr().out
    assert "4 frames of 48 x 80 px, the whole picture\n" in printed
    expected = seen(weights, read_frames(video, uniform_times(0, 4, 4), CropBox(0, 0, 48, 80, 48, 80)).frames)
    assert expected.patches.shape[-2:] == (3, 5)
    assert table(printed)["w20"][-1] == pytest.approx(expected.patches[1].max().item() * (4 * 15 + 1), rel=0.01)


def test_what_a_user_gets_wrong_is_one_line(weights: Path, video: Path, tmp_path: Path,
                                            make_backbone: Callable[..., Backbone], tokenizer: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "folder.png").mkdir()
    save_backbone(make_backbone(tokenizer=tokenizer, num_fused_layers=0), tmp_path / "plain.safetensors")
    for more, problem in (
            (["--text", "  "], "--text is empty: say what is seen"),
            (["--layers", 0], "--layers 0: words look at the video in the layers 1, 2"),
            (["--layers", "last"], "--layers last: words look at the video in the layers 1, 2"),
            (["--heads", 0, 4], "--heads 4: `mean`, `all` or some of 0, 1, 2, 3"),
            (["--words", "w10", "w40"], "--words w40: the words that are read are w10, w20, w30; give some of them"),
            (["--max-tokens", 4, "--words", "w30"], "--words w30: the words that are read are w10, w20; give"),
            (["--start", 4.5], "--start 4.5 --end inf: nothing of .*film.mp4, which lasts 4.0 s, lies between"),
            (["--start", 3, "--end", 2], "--start 3.0 --end 2.0: nothing of "),
            (["--start", "nan"], "--start nan"), (["--start", -1], "--start -1.0"),
            (["--size", 40], r"frames of 40 x 40 px: patches of 16 px don't fill 40 px; .* such as 32 or 48"),
            (["--size", 9], "patches of 16 px don't fill 9 px; give a multiple, such as 16"),
            (["--size", 0], "--size 0: give a whole number"),
            (["--num-frames", 0], "--num-frames 0: give a whole number"),
            (["--num-frames", 200], "800 pictures are too many to look at: choose fewer --words, .* .500 at most"),
            (["--out", out / "a.jpg"], "--out .*a.jpg: the picture is a .png"),
            (["--out", tmp_path / "folder.png"], "--out .*folder.png is a folder: give the name of a file"),
            (["--weights", tmp_path / "plain.safetensors"], "plain.safetensors has no fused layer"),
            (["--weights", tmp_path / "none.ckpt"], "none.ckpt is missing: give a weights file")):
        with pytest.raises(SystemExit, match=problem) as end:
            cli(command(video, weights, "--out", out / "a.png", *more))
        assert str(end.value).startswith("egovlpv2 attend: error: ") and os.listdir(out) == []
    with pytest.raises(SystemExit, match=r"none.mp4"):
        cli(command(tmp_path / "none.mp4", weights, "--out", out / "a.png"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_text_is_drawn_and_printed(weights: Path, video: Path, tmp_path: Path, encoding: str) -> None:
    name = video.with_name(os.fsdecode("料理 $x^ caf".encode() + b"\xe9.mp4"))
    name.write_bytes(video.read_bytes())
    code, printed = run(["attend", name, "--text", "w1 🍳 \x01 $5^ w2", "--weights", weights, "--out",
                         tmp_path / "a.png"], tmp_path / "log",
                        lambda: [stream.reconfigure(encoding=encoding) for stream in (sys.stdout, sys.stderr)])
    assert code == 0, printed
    assert "Warning" not in printed and "written: " in printed
    assert Image.open(tmp_path / "a.png").size[0] > 500


def test_a_text_of_which_no_word_is_left_is_refused(weights: Path, video: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Words([], [], tokenize(load_tokenizer(load_backbone(weights).config.text.tokenizer), ["w1"], 2))
    monkeypatch.setattr("egovlpv2.tools.attend.read_words", lambda *_: nothing)
    with pytest.raises(SystemExit, match=f"--max-tokens 2 leaves no word of '{TEXT}' beside the special tokens"):
        cli(command(video, weights, "--out", tmp_path / "a.png", "--max-tokens", 2))


def test_words_are_chosen_by_what_they_are() -> None:
    labels = ["#C", "C", "puts", "the", "jar", "on", "the", "shelf."]
    assert pick_rows(labels, ["all"]) == [*range(8), None]
    assert pick_rows(labels, ["pooled"]) == [None] and pick_rows(labels, ["Shelf", "the", "#c"]) == [7, 3, 6, 0]
    words = Words(["a", "b"], [[1], [2]], {})
    maps = Attention(torch.tensor([[0.2], [0.4]]), torch.tensor([[0.8], [0.6]])[..., None, None, None], 1.0)
    rows = pool(maps, words, [None, 1])
    assert [[strip.label for strip in row] for row in rows] == [["pooled"], ["b"]]
    assert rows[0][0].cls == pytest.approx(0.3) and rows[0][0].patches.item() == pytest.approx(0.7)


def test_heat_lies_where_attention_is() -> None:
    frames = torch.full((2, 3, 20, 60), 200, dtype=torch.uint8)
    heat = torch.zeros(2, 2, 6)
    heat[1, 1, 5] = 1
    shown = overlay(frames, heat, (40, 120)).astype(int)  # a patch has 20 x 20 px
    assert (shown[0] == 140).all() and (shown[1, :, :60] == 140).all()  # where there is none, the frame is but darker
    far = abs(shown[1] - 140).sum(-1) > 100
    assert far[25:, 105:].all() and not far[:15].any() and not far[:, :95].any()
    even = Strip("w", 1 / 17, torch.full((2, 2, 4), 1 / 17))
    assert even.peak == pytest.approx(1)


def test_strips_fill_rows() -> None:
    strip = Strip("word", 0.5, torch.rand(2, 3, 3) / 18)
    frames = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    figure = draw_attention("costs $5, not $\\frac\nmore", frames, [0.5, 1.5], [strip] * 3)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0] == "costs $5, not $\\frac\nmore"
    assert sum(text.startswith("word   (CLS 50%, peak") for text in texts) == 3
    assert sum(text.startswith("1.50 s: ") for text in texts) == 3
    boxes = {tuple(round(side, 3) for side in image.get_extent()) for image in figure.axes[0].images}
    assert len(boxes) == 3 * 2 + 1  # and the colours' scale; none hides another
    assert len({left for left, *_ in boxes}) == 2 and len({top for *_, top in boxes}) == 4
    assert png(figure)
    single = [strip._replace(patches=strip.patches[:1])] * 5
    with Image.open(BytesIO(png(draw_attention("t", frames[:1], None, single, 3)))) as drawn:
        assert drawn.size[0] > drawn.size[1] > 500  # two rows of three


def test_positions_are_interpolated(make_backbone: Callable[..., Backbone], weights: Path, tmp_path: Path) -> None:
    small, same = make_backbone(), load_backbone(weights, img_size=32)
    clip = make_clips(2)["video"]
    assert torch.equal(small.video_features(clip), same.video_features(clip))
    ramp = torch.tensor([7.0, 0.0, 1.0, 0.0, 1.0])  # of CLS, and of four patches that grow to the right
    small.video_tower.pos_embed = nn.Parameter(ramp.view(1, 5, 1).repeat(1, 1, 24))
    resize_frames(small, (32, 96))
    grid = small.video_tower.pos_embed[0, 1:, 0].view(2, 6).detach()
    assert (small.video_tower.pos_embed[0, 0] == 7).all() and torch.equal(grid[0], grid[1])
    assert (grid[0].diff() > -0.1).all() and grid[0, 0] < 0.1 and grid[0, -1] > 0.9
    save_backbone(small, tmp_path / "wide.safetensors")
    wide, clip = load_backbone(tmp_path / "wide.safetensors"), make_clips(1, size=96)["video"][..., :32, :]
    assert torch.equal(small.video_features(clip), wide.video_features(clip))
    back = load_backbone(tmp_path / "wide.safetensors", img_size=64)
    rows = back.video_tower.pos_embed[0, 1:, 0].detach().view(4, 4)
    torch.testing.assert_close(rows, rows[:1].expand(4, 4))
    assert (rows[0].diff() > 0.2).all() and back.video_features(make_clips(1, size=64)["video"]).shape == (1, 24)
    with pytest.raises(ValueError, match=r"frames of 64 x 50 px: patches of 16 px don't fill 50 px"):
        load_backbone(weights, img_size=(64, 50))

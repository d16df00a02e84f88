"""`egovlpv2 index` and `search`: the windows that the model finds nearest, whatever happens to videos and weights."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from search.searching import QUERY, index, refused, search

from egovlpv2 import Index
from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.data_modules.toy_world.evaluate_search import draw_events, is_right, measure, read_videos
from egovlpv2.features.locks import claim
from egovlpv2.model.backbone import Backbone
from egovlpv2.search.moments import Moment
from egovlpv2.tokenization import load_tokenizer, tokenize
from egovlpv2.video.decode import read_frames
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform


def clips(path: Path, starts: list[float], seconds: float) -> torch.Tensor:
    return torch.stack([read_frames(path, uniform_times(start, min(start + 2, seconds), 4), EvalTransform(32)).frames
                        for start in starts])


def test_cosine_and_match_are_the_models(backbone: Backbone, tokenizer: str, videos: Path, made: Path) -> None:
    found = Index(made, device="cpu").search(QUERY, top=100, rerank=100)
    text = tokenize(load_tokenizer(tokenizer), [QUERY], 12)
    assert {moment.video for moment in found} == set("abc")
    assert [moment.score for moment in found] == sorted((moment.score for moment in found), reverse=True)
    for moment in found:
        clip = clips(videos / f"{moment.video}.mp4", [moment.start], moment.end)
        with torch.no_grad():
            cosine = torch.cosine_similarity(backbone.embed_video(clip), backbone.embed_text(text))
            match = backbone.vtm_logits(clip, text).softmax(-1)[0, 1]
        assert moment.cosine == pytest.approx(float(cosine), abs=2e-3)
        assert moment.match == pytest.approx(float(match), abs=1e-5)
        assert moment.score == moment.cosine + moment.match


def test_windows_lie_where_they_are_told(videos: Path, made: Path) -> None:
    spans = Index(made, device="cpu").store.spans()
    assert spans == [*(("a", float(s), s + 2.0) for s in range(5)), *(("b", float(s), s + 2.0) for s in range(3)),
                     ("c", 0.0, 1.5)]


def test_the_best_window_is_first_and_the_rest_follows(made: Path) -> None:
    searched = Index(made, device="cpu")
    dual = searched.search(QUERY, top=4)
    assert [moment.cosine for moment in dual] == sorted((moment.cosine for moment in dual), reverse=True)
    assert all(moment.match is None and moment.score == moment.cosine for moment in dual)
    mixed = searched.search(QUERY, top=4, rerank=2)
    assert {(m.video, m.start) for m in mixed[:2]} == {(m.video, m.start) for m in dual[:2]}
    assert all(moment.match is not None for moment in mixed[:2]) and mixed[2:] == dual[2:]
    assert len(searched.search(QUERY, top=1, rerank=3)) == 1


def test_the_order_is_the_texts(made: Path) -> None:
    searched = Index(made, device="cpu")
    orders = {tuple((moment.video, moment.start) for moment in searched.search(f"w{i} w{7 * i + 3} w{i + 90}"))
              for i in range(20)}
    assert len(orders) > 1


def test_the_command_prints_a_table_and_writes_a_page(made: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    search(made, "--top", 3, "--rerank", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "score", "cosine", "match", "video", "from", "-", "to"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"] and lines[3].split()[3] == "-"
    assert lines[4].startswith("9 windows of 3 videos") and "page.html" in lines[5]
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 18 and QUERY in page


def test_what_is_found_is_exported(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = [str(tmp_path / name) for name in ("clips", "a.csv", "a.vtt")]
    cli(["search", "w1 w2", "--index", str(made), "--top", "3", "--out", str(tmp_path / "a.html"), "--export", *targets,
         "--device", "cpu"])
    assert len(list((tmp_path / "clips").glob("00?-*.mp4"))) == 3 and "written: " in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_text().count("w1 w2") == 3
    assert sum(path.read_text().count("-->") for path in tmp_path.glob("a*.vtt")) == 3
    with pytest.raises(SystemExit, match="--export .*a.mov: give a folder for clips"):
        cli(["search", "w1", "--index", str(made), "--export", str(tmp_path / "a.mov")])


def test_other_weights_are_refused(make_backbone: Callable[..., Backbone], weights: Path, videos: Path, made: Path,
                                   tmp_path: Path) -> None:
    other = make_backbone()
    other.video_tower.cls_token.data += 1
    save_backbone(other, tmp_path / "other.safetensors")
    refused(r"was made with the weights \w{16}, and .*other.safetensors is \w{16}", made,
            "--weights", tmp_path / "other.safetensors")
    with pytest.raises(SystemExit, match="another recipe .*checkpoint"):
        index(videos, tmp_path / "other.safetensors", made)
    weights.rename(tmp_path / "moved.safetensors")
    refused("the weights of .* are not there .*--weights", made)
    search(made, "--weights", tmp_path / "moved.safetensors")


def test_what_a_user_gets_wrong_is_one_line(made: Path, tmp_path: Path) -> None:
    refused(r"none is not an index .*egovlpv2 index", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refused("empty is not an index", tmp_path / "empty")
    refused("the query is empty", made, query="  ")
    refused("--out .*index.json: the page is a .html", made, "--out", made / "index.json")
    refused("--top 0: give a (whole|finite) number", made, "--top", 0)
    refused("--rerank -1: give a whole number, 0 or more", made, "--rerank", -1)
    refused("--out .*empty is a folder: give the name of a file", made, "--out", tmp_path / "empty")
    refused("the tokenizer .*nowhere' can't be loaded: no such folder", made, "--tokenizer", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="^max_tokens=0: give a whole number, 1 or more"):
        Index(made, max_tokens=0)
    with pytest.raises(ValueError, match="^top=0: give a whole number, 1 or more"):
        Index(made, device="cpu").search(QUERY, top=0)
    (made / "index.json").write_text("{")
    refused("index.json is damaged", made)


@pytest.mark.parametrize("damage, message", [
    (b"{", "line 1, column 2"), (b"[]", "Expected `object`, got `array`"), (b"\xff\xfe{", "UTF-16"), (b"", "not JSON"),
    ({"max_tokens": "12"}, "max_tokens: Expected `int`, got `str`"),
    ({"max_tokens": 0}, "max_tokens: Expected `int` >= 1"),
    ({"weights": None}, "weights: Expected `str`, got `null`"), ({"videos": []}, "videos: Expected `object`"),
    ({"videos": {"a": {"files": []}}}, "videos"), ({"videos": {"a": 5}}, "videos.*Expected `object`, got `int`"),
])
def test_a_damaged_list_is_named_and_stays(made: Path, videos: Path, weights: Path, damage: bytes | dict[str, object],
                                           message: str) -> None:
    path = made / "index.json"
    whole = json.loads(path.read_bytes())
    path.write_bytes(damage if isinstance(damage, bytes) else json.dumps(whole | damage).encode())
    before = path.read_bytes()
    refused(f"index.json is damaged, .*{message}", made)
    with pytest.raises(SystemExit, match="index.json is damaged"):
        index(videos, weights, made)
    assert path.read_bytes() == before


def test_an_index_with_a_tokenizer_of_another_size_is_not_made(videos: Path, weights: Path, tmp_path: Path) -> None:
    other = made_up_tokenizer(tmp_path / "other", 5000)
    with pytest.raises(SystemExit, match="other doesn't fit the weights: it has 5,000 tokens and they have 600"):
        index(videos, weights, tmp_path / "index", "--tokenizer", other)
    assert not list((tmp_path / "index").iterdir())


def test_a_search_with_a_tokenizer_of_another_size_is_refused(made: Path, tmp_path: Path) -> None:
    other = made_up_tokenizer(tmp_path / "other", 601)
    refused("other doesn't fit the weights: it has 601 tokens", made, "--tokenizer", other)


def test_an_embedding_that_is_not_one_is_named(made: Path) -> None:
    raw = bytearray((made / "b.safetensors").read_bytes())
    raw[-2:] = b"\xff\x7f"  # NaN
    (made / "b.safetensors").write_bytes(raw)
    refused(r"b.safetensors: the feature of window \d+ is not finite", made)


def test_no_finished_video_is_told(made: Path) -> None:
    for path in made.glob("*.safetensors"):
        path.unlink()
    refused("no finished videos", made)


def test_videos_that_others_work_on_are_no_error(videos: Path, weights: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "index").mkdir()
    claims = [claim(tmp_path / "index" / f"{path.stem}.safetensors") for path in videos.iterdir()]
    assert all(claims)
    index(videos, weights, tmp_path / "index")
    assert "can't be searched yet: other processes are at work" in capsys.readouterr().out


def test_options_of_zero_and_missing_videos_are_refused(videos: Path, weights: Path, tmp_path: Path) -> None:
    for name in ("seconds", "every", "num-frames", "chunk-seconds"):
        with pytest.raises(SystemExit, match=f"--{name} 0.*: give a (whole|finite) number"):
            index(videos, weights, tmp_path / "index", f"--{name}", 0)
    for name, value, hint in (("seconds", "inf", "finite number"), ("every", "nan", "finite number above 0"),
                              ("every", "0.0001", "number of seconds, from 0.001"),
                              ("seconds", "1e+308", "number of seconds, from 0.001")):
        with pytest.raises(SystemExit, match=f"--{name} {re.escape(value)}: give a?n? ?{hint}"):
            index(videos, weights, tmp_path / "index", f"--{name}", value)
    with pytest.raises(SystemExit, match="--max-tokens 100: the text tower of .* takes [0-9]+ at most"):
        index(videos, weights, tmp_path / "other", "--max-tokens", 100)
    with pytest.raises(SystemExit, match="there is no such file or folder"):
        index(tmp_path / "nothing", weights, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_long_query_is_cut_and_told(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search(made, query=" ".join(f"w{i}" for i in range(30)))
    assert "is cut to 12 (--max-tokens)" in capsys.readouterr().out


def test_an_unreadable_video_is_named_and_the_rest_is_there(videos: Path, weights: Path, tmp_path: Path) -> None:
    (videos / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit, match=r"egovlpv2 index: 1 of 4 videos failed:\n.*bad.mp4"):
        index(videos, weights, tmp_path / "index")
    assert Index(tmp_path / "index", device="cpu").store.names == ["a", "b", "c"]


def test_a_toy_search_is_measured_by_its_script(toy: Path, weights: Path, tmp_path: Path) -> None:
    folders = sorted((toy / "videos").glob("toy-test-*"))
    cli(["index", *map(str, folders), "--weights", str(weights), "--out", str(tmp_path / "toy"), "--device", "cpu",
         "--num-workers", "0", "--chunk-seconds", "8", "--max-tokens", "12"])
    searched = Index(tmp_path / "toy", device="cpu")
    videos = read_videos(toy, searched.store.names)
    events = draw_events(videos, 5, seed=0)
    found = measure(searched, videos, events)
    assert 0 <= found.top1 <= found.top5 <= 100 and 0 < found.chance < 30
    video = next(iter(videos.values()))
    event = video.events[1]
    middle = (event.start + event.end) / 2
    assert is_right(event, video, middle - 1, middle + 1)
    assert not is_right(event, video, video.events[0].start - 3, video.events[0].start - 1)
    with pytest.raises(ValueError, match="--queries 0"):
        draw_events(videos, 0, seed=0)
    with pytest.raises(ValueError, match="lacks, such as 'kitchen'"):
        read_videos(toy, ["kitchen"])


def test_right_moments_are_counted() -> None:
    """Two videos of two events of 4 s; one of the first's is told again in the second."""
    told = {"a": [("puts", "jar"), ("takes", "cup")], "b": [("cuts", "leek"), ("puts", "jar")]}
    videos = {name: SimpleNamespace(events=[SimpleNamespace(start=4.0 * i, end=4.0 * (i + 1), verb=verb, noun=noun,
                                                            text=f"{verb} {noun}")
                                            for i, (verb, noun) in enumerate(events)]) for name, events in told.items()}
    spans = [(name, start, start + 2) for name in videos for start in (0.0, 2.0, 4.0, 6.0)]
    found = {"puts jar": [("b", 6.0), ("a", 4.0)],  # right at once, in the other video
             "takes cup": [("a", 2.0), ("b", 4.0), ("a", 3.0)],  # the third: its middle is the event's start
             "cuts leek": [("b", 4.0), ("a", 0.0)]}
    index = SimpleNamespace(
        store=SimpleNamespace(spans=lambda: spans),
        search=lambda text, **_: [Moment(name, start, start + 2, 0.5) for name, start in found[text]])
    events = [*videos["a"].events, videos["b"].events[0]]
    result = measure(index, videos, events)
    assert result == pytest.approx((100 / 3, 200 / 3, 100 * (4 + 2 + 2) / 8 / 3))


def test_pictures_are_those_of_the_moment(videos: Path, made: Path) -> None:
    searched = Index(made, device="cpu")
    moment = next(m for m in searched.search(QUERY, top=99) if m.video == "a" and m.start > 0)
    frames = searched.frames(moment, count=3)
    expected = read_frames(videos / "a.mp4", uniform_times(moment.start, moment.end, 3)).frames
    assert torch.equal(frames, expected)
    assert os.listdir(made).count("index.json") == 1


def test_an_index_is_made_with_a_saved_folder_too(backbone: Backbone, videos: Path, tmp_path: Path) -> None:
    backbone.save_pretrained(tmp_path / "saved")
    index(videos, tmp_path / "saved", tmp_path / "index")
    for given in (None, str(tmp_path / "saved")):
        assert Index(tmp_path / "index", given, device="cpu").search(QUERY, top=1)
    assert Index(tmp_path / "index").manifest.tokenizer == str(tmp_path / "saved" / "tokenizer")

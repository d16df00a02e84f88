"""`egovlpv2 locate` and `detect`: the same windows as `egovlpv2 predict`, of any video, in parts if it is long."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, WORDS, draw_parameters, make_config
from PIL import Image
from video.numbered_videos import write_video

from egovlpv2 import detect, extract_features, locate
from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.features.clips import ClipSpan
from egovlpv2.metrics.temporal import temporal_iou
from egovlpv2.model.backbone import Backbone
from egovlpv2.tools import detect as detecting
from egovlpv2.tools import locate as locating
from egovlpv2.tools import video_parts
from egovlpv2.tools.detect import Detection
from egovlpv2.tools.locate import Window
from egovlpv2.tools.video_parts import Part, join_curves, parts

WIDTH = 24
NAMES = {"nlq": "nlq_test.json", "mq": "moments_test.json"}
SMALL = {"nlq": [f"--model.init_args.video_dim={WIDTH}", "--model.init_args.query_dim=32",
                 "--model.init_args.dim=16"],
         "mq": ["--model.init_args.dim=32", "--data.init_args.num_steps=96"],
         "mq_actionformer": ["--model.init_args.dim=32", "--data.init_args.num_steps=96",
                             "--model.init_args.num_levels=4"]}
HOW: dict[str, Any] = {"chunk_seconds": 8, "num_workers": 0, "device": "cpu"}


class World:
    """Weights, and heads that were trained on their features of the toy world's long takes, with their predictions."""

    def __init__(self, toy: Path, folder: Path) -> None:
        self.toy, self.folder, self.weights = toy, folder, folder / "weights.safetensors"
        torch.manual_seed(0)
        backbone = Backbone(make_config(made_up_tokenizer(folder / "words", WORDS))).eval()
        draw_parameters(backbone)
        save_backbone(backbone, self.weights)
        self.width = backbone.config.projector[-1]
        self.takes = toy / "long" / "videos"

    def head(self, task: str) -> Path:
        """The checkpoint of a head."""
        run = self.folder / task
        if not run.exists():
            kind = "fused" if task == "nlq" else "projected"
            queries = [str(path) for path in sorted((self.toy / "nlq").glob("nlq_*.json"))] if task == "nlq" else None
            features = self.folder / kind
            extract_features([str(self.takes)], str(self.weights), features, kind=kind, queries=queries, fps=10.0,
                             window=20, stride=5, **HOW)
            self._run("fit", task, features, "--trainer.max_epochs=1")
            self._run("predict", task, features, f"--model.init_args.weights={run / 'checkpoints' / 'best.ckpt'}",
                      f"--trainer.logger.init_args.name={task}-answers")
        return run / "checkpoints" / "best.ckpt"

    def predicted(self, task: str) -> dict[str, Any]:
        self.head(task)
        content: dict[str, Any] = json.loads((self.folder / f"{task}-answers" / "predictions.json").read_text())
        return content

    def truth(self, benchmark: str) -> list[dict[str, Any]]:
        content = json.loads((self.toy / benchmark / NAMES[benchmark]).read_text())
        videos: list[dict[str, Any]] = content["videos"]
        return videos

    def _run(self, command: str, task: str, features: Path, *more: str) -> None:
        width = [] if task == "nlq" else [f"--model.init_args.in_dim={self.width}"]
        cli([command, *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in (task, "trainer/cpu", f"toy/{task}")),
             f"--data.init_args.root={self.toy / task.partition('_')[0]}", f"--data.init_args.features={features}",
             "--data.init_args.videos=null", "--data.init_args.weights=null", "--data.init_args.recipe=null",
             "--data.init_args.batch_size=2", "--precision=32", "--trainer.enable_progress_bar=false", *SMALL[task],
             *width, f"--trainer.logger.init_args.save_dir={self.folder}", f"--trainer.logger.init_args.name={task}",
             *more])


@pytest.fixture(scope="module")
def world(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(toy, tmp_path_factory.mktemp("world"))


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of any length are looked at as a whole, as the data sets do with clips."""
    monkeypatch.setattr(video_parts, "_WHOLE", 1e3)


@pytest.mark.usefixtures("whole")
def test_windows_of_queries_are_those_of_predict(world: World) -> None:
    head, answers = world.head("nlq"), world.predicted("nlq")["results"]
    for video in world.truth("nlq"):
        (clip,) = video["clips"]
        asked = {(group["annotation_uid"], index): row["query"].lower() for group in clip["annotations"]
                 for index, row in enumerate(group["language_queries"])}
        found = {one.query: one for one in locate(world.takes / video["video_uid"], list(asked.values()),
                                                  str(world.weights), head, **HOW)}  # shown as they are typed
        assert list(found) == list(dict.fromkeys(asked.values()))
        mine = {(row["annotation_uid"], row["query_idx"]): row["predicted_times"] for row in answers
                if row["clip_uid"] == clip["clip_uid"]}
        assert mine.keys() == asked.keys()
        for key, text in asked.items():
            windows = found[text].windows
            assert len(windows) == 5 and windows == sorted(windows, key=lambda window: -window.score)
            np.testing.assert_allclose([window[:2] for window in windows], mine[key], atol=1e-3)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("task", ["mq", "mq_actionformer"])
def test_activities_are_those_of_predict(world: World, task: str) -> None:
    head, answers = world.head(task), world.predicted(task)["detect_results"]
    for video in world.truth("mq"):
        found = detect(world.takes / video["video_uid"], str(world.weights), head, min_score=0.0, top=2000, **HOW)
        expected = answers[video["clips"][0]["clip_uid"]]
        assert len(found) == len(expected) > 10
        np.testing.assert_allclose([one.score for one in found], [row["score"] for row in expected], atol=1e-5)
        np.testing.assert_allclose(sorted((one.start, one.end) for one in found),
                                   sorted(map(tuple, (row["segment"] for row in expected))), atol=1e-2)
        best = [row for row in expected if row["score"] > found[10].score]
        assert [one.label for one in found[:len(best)]] == [row["label"] for row in best]


@pytest.mark.parametrize("duration, longest", [(301.0, 100.0), (7200.0, 480.0), (150.1, 100.0), (7.3, 2.2)])
def test_parts_of_a_long_video(duration: float, longest: float) -> None:
    found = parts("v", duration, longest, 2.0)
    spans = [part.span for part in found]
    assert spans[0].start == 0 and spans[-1].end == pytest.approx(duration, abs=0.5) and len(spans) > 1
    assert all(span.start * 2 == round(span.start * 2) and 0 < span.duration <= longest + 1e-9 for span in spans)
    assert all(a.end - b.start >= longest / 2 - 1 for a, b in zip(spans[:-1], spans[1:], strict=True))
    edges = [part.start for part in found] + [found[-1].end]
    assert edges == sorted(edges) and edges[0] == 0 and edges[-1] == duration
    assert all(part.span.start <= part.start < part.end <= part.span.end + 0.5 for part in found)
    assert len({span.clip for span in spans}) == len(spans)


def test_a_video_little_longer_than_known_clips_stays_whole() -> None:
    assert parts("v", 149.0, 100.0, 2.0) == [Part(ClipSpan("v", "v", 0.0, 149.0), 0.0, 149.0)]


def test_curves_of_parts_are_joined() -> None:
    halves = [Part(ClipSpan("a", "v", 0.0, 6.0), 0.0, 5.0), Part(ClipSpan("b", "v", 4.0, 10.0), 5.0, 10.0)]
    joined = join_curves([(halves[0], {"x": np.zeros(12, np.float32)}), (halves[1], {"x": np.ones(3, np.float32)})], 10)
    assert joined["x"][:500].max() == 0 and joined["x"][500:].min() == 1


def test_a_long_video_is_looked_at_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of all parts, none found twice, at the time of the video at which a part has them."""
    take = world.takes / world.truth("nlq")[0]["video_uid"]
    query = world.truth("nlq")[0]["clips"][0]["annotations"][0]["language_queries"][0]["query"]
    for module, read, run in ((locating, "read_query_head", lambda: locate(take, [query], str(world.weights),
                                                                           world.head("nlq"), top=50, **HOW)),
                              (detecting, "read_moment_head", lambda: detect(take, str(world.weights), world.head(
                                  "mq_actionformer"), min_score=0.0, top=500, **HOW))):
        seen: list[tuple[Part, list[tuple[float, float]]]] = []
        watch(monkeypatch, module, read, seen)
        found = run()
        spans = found[0].windows if module is locating else found
        assert len(seen) > 2 and isinstance(found, list)
        for one in spans:
            start, end = (one.start, one.end) if isinstance(one, Detection) else one[:2]
            assert any(np.allclose((start, end), (part.span.start + a, part.span.start + b), atol=1e-3)
                       for part, local in seen for a, b in local)
        if isinstance(spans[0], Window):
            by_part = [(part, np.array(local) + part.span.start) for part, local in seen]
            best = np.array(spans[0][:2])
            others = [pair for part, local in by_part for pair in local if not (local == best).all(1).any()]
            again = [window for window in spans if any(np.allclose(window[:2], pair) for pair in others)
                     and temporal_iou(best, np.array(window[:2])) >= 0.5]
            assert not again


def watch(monkeypatch: pytest.MonkeyPatch, module: Any, read: str, seen: list[Any]) -> None:
    """Let a head know clips of 6 s, and record what each part gives, in seconds of the part."""
    opened, look = getattr(module, read), module._look_at

    def shorter(path: Path) -> Any:
        head = opened(path)
        if module is locating:
            return head._replace(longest=6.0)
        object.__setattr__(head, "longest", 6.0)
        return head

    def looked(part: Part, *args: Any) -> Any:
        found, curves = look(part, *args)
        local = ([(w.start - part.span.start, w.end - part.span.start) for w in found] if module is locating
                 else [tuple(segment) for segment in found.segments.tolist()])
        seen.append((part, local))
        return found, curves

    monkeypatch.setattr(module, read, shorter)
    monkeypatch.setattr(module, "_look_at", looked)


def test_a_list_and_a_picture_are_written(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take, out = world.takes / world.truth("nlq")[0]["video_uid"], tmp_path / "new" / "found.json"
    how = ["--weights", str(world.weights), "--chunk-seconds", "8", "--num-workers", "0", "--device", "cpu"]
    cli(["locate", str(take), "W1 w2", "w3", "--head", str(world.head("nlq")), "--out", str(out), "--top", "2", *how])
    said, content = capsys.readouterr().out, json.loads(out.read_text())
    assert [row["query"] for row in content["queries"]] == ["W1 w2", "w3"] and content["video"] == take.name
    assert all(len(row["windows"]) == 2 for row in content["queries"])
    assert said.count("score") == 4 and f"written: {out} and {out.with_suffix('.png')}" in said
    check_picture(out.with_suffix(".png"))
    cli(["detect", str(take), "--head", str(world.head("mq")), "--out", str(out), "--min-score", "0", *how])
    content = json.loads(out.read_text())
    assert content["detections"] and {"label", "start", "end", "score"} == content["detections"][0].keys()
    check_picture(out.with_suffix(".png"))
    capsys.readouterr()
    cli(["detect", str(take), "--head", str(world.head("mq")), "--min-score", "1", *how])
    assert capsys.readouterr().out.splitlines()[-1] == "no activity with a score of 1 or more"


def check_picture(path: Path) -> None:
    """It shows frames, not curves alone."""
    with Image.open(path) as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
        assert picture.size[0] > 1000 and len(colours) > 500


def test_what_does_not_fit_is_refused(world: World, tmp_path: Path, make_backbone: Any, tokenizer: str) -> None:
    take, weights = world.takes / world.truth("nlq")[0]["video_uid"], str(world.weights)
    nlq, mq = world.head("nlq"), world.head("mq")
    with pytest.raises(ValueError, match=r"best.ckpt is a head of `make finetune-mq`: use it with `egovlpv2 detect`"):
        locate(take, ["w1"], weights, mq, **HOW)
    with pytest.raises(ValueError, match=r"best.ckpt is a head of `make finetune-nlq`: use it with `egovlpv2 locate`"):
        detect(take, weights, nlq, **HOW)
    for queries, message in (([], "queries is an empty list"), (["w1", " "], "a query is empty: ask something")):
        with pytest.raises(ValueError, match=message):
            locate(take, queries, weights, nlq, **HOW)
    save_backbone(make_backbone(tokenizer=tokenizer, num_fused_layers=1), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"was trained on features of the weights .*, and .*other.safetensors is"):
        locate(take, ["w1"], str(tmp_path / "other.safetensors"), nlq, **HOW)
    with pytest.raises(ValueError, match="weights.safetensors"):
        locate(take, ["w1"], weights, world.weights, **HOW)
    with pytest.raises(ValueError, match="lasts 8.0 s and the chunks should last 600"):
        locate(take, ["w1"], weights, nlq)
    with pytest.raises(ValueError, match=r"holds \d+ videos"):
        detect(world.takes, weights, mq, **HOW)
    for out, message in (("a.txt", "the list of what is found is a .json"), ("", "is a folder|is a .json")):
        with pytest.raises(ValueError, match=message):
            locate(take, ["w1"], weights, nlq, out=tmp_path / out, **HOW)
    with pytest.raises(ValueError, match="--export .*a.json: that file is read, or written to already"):
        locate(take, ["w1"], weights, nlq, out=tmp_path / "a.json", export=[str(tmp_path / "a.json")], **HOW)
    with pytest.raises(ValueError, match="none.ckpt"):
        locate(take, ["w1"], weights, tmp_path / "none.ckpt", **HOW)
    with pytest.raises(ValueError, match="min_score"):
        detect(take, weights, mq, min_score=1.5, **HOW)


@pytest.mark.parametrize("task", ["nlq", "mq_actionformer"])
def test_a_damaged_head_is_refused_by_its_key(world: World, tmp_path: Path, task: str) -> None:
    name, take = task[:3].strip("_"), world.takes / world.truth("nlq")[0]["video_uid"]
    content = torch.load(world.head(task), weights_only=False)
    facts = content["egovlpv2"][name]

    def use(**changed: object) -> None:
        content["egovlpv2"][name] = {key: value for key, value in (facts | changed).items() if value is not None}
        torch.save(content, tmp_path / "head.ckpt")
        if name == "nlq":
            locate(take, ["w1"], str(world.weights), tmp_path / "head.ckpt", **HOW)
        else:
            detect(take, str(world.weights), tmp_path / "head.ckpt", **HOW)

    for changed in ({"longest": None}, {"longest": -1.0}, {"dim": 1 << 40}, {"dim": "wide"}):
        with pytest.raises(ValueError, match=rf"head.ckpt, egovlpv2.{name}.*({'|'.join(changed)})"):
            use(**changed)
    with pytest.raises(ValueError, match="does not fit the head"):
        use(dim=facts["dim"] * 2)
    content["egovlpv2"].pop(name)
    torch.save(content, tmp_path / "older.ckpt")
    with pytest.raises(ValueError, match="older.ckpt is of a version that didn't store the settings of its head"):
        (locate(take, ["w1"], str(world.weights), tmp_path / "older.ckpt", **HOW) if name == "nlq"
         else detect(take, str(world.weights), tmp_path / "older.ckpt", **HOW))


def test_any_kind_of_video(world: World, tmp_path: Path) -> None:
    """A file, and a folder of pictures, shorter than a window."""
    film = write_video(tmp_path / "film.mp4", fps=8, gop=8, pictures=[np.full((40, 50, 3), i * 9, np.uint8)
                                                                       for i in range(12)])
    (found,) = locate(film, ["w1 w2"], str(world.weights), world.head("nlq"), num_workers=0, device="cpu")
    assert found.windows and all(0 <= window.start < window.end <= 1.5 + 1e-6 for window in found.windows)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(np.full((40, 50, 3), i * 9, np.uint8)).save(folder / f"{i:03}.png")
    found = detect(folder, str(world.weights), world.head("mq"), min_score=0.0, image_fps=4, num_workers=0,
                   device="cpu", out=tmp_path / "found.json")
    assert all(0 <= one.start < one.end <= 5 for one in found) and (tmp_path / "found.png").exists()
    with pytest.raises(ValueError, match="lies among the pictures of the video"):
        detect(folder, str(world.weights), world.head("mq"), image_fps=4, out=folder / "found.json")


def test_what_is_found_is_exported(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take, how = world.takes / world.truth("nlq")[0]["video_uid"], ["--weights", str(world.weights), "--chunk-seconds",
                                                                   "8", "--num-workers", "0", "--device", "cpu"]
    targets = [str(tmp_path / name) for name in ("clips", "a.srt", "a.csv")]
    cli(["locate", str(take), "w1 w2", "--head", str(world.head("nlq")), "--top", "2", "--export", *targets, *how])
    said = capsys.readouterr().out
    clips = list((tmp_path / "clips").glob("*.mp4"))  # those that don't overlap a better one
    assert 1 <= len(clips) <= 2 and said.count("written: ") == 2 + len(clips)
    assert (tmp_path / "a.srt").read_text().count("w1 w2 (") == len(clips)
    cli(["detect", str(take), "--head", str(world.head("mq")), "--min-score", "0", "--top", "3", "--export",
         str(tmp_path / "b.edl"), *how])
    assert (tmp_path / "b.edl").read_text().count("* COMMENT: use_") == 3
    with pytest.raises(SystemExit, match="--export .*a.mov: give a folder for clips"):
        cli(["detect", str(take), "--head", str(world.head("mq")), "--export", str(tmp_path / "a.mov"), *how])

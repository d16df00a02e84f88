"""A small file of each format of annotations, and how each is read, for `test_mutated_annotations.py`."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save
from scipy.io import savemat

from egovlpv2.analysis.cost import read_bench
from egovlpv2.bench.reader import OPENED
from egovlpv2.data_modules.charades_ego import CharadesEgoDataModule
from egovlpv2.data_modules.egohoi import EgoHOIBench
from egovlpv2.data_modules.egomcq import EgoMCQ
from egovlpv2.data_modules.ek100 import EK100DataModule
from egovlpv2.data_modules.moments import read_classes, read_moments
from egovlpv2.data_modules.nlq import read_nlq_queries
from egovlpv2.data_modules.qfvs_files import read_dictionary, read_oracles, read_tags
from egovlpv2.data_modules.questions import kind_names, read_questions
from egovlpv2.data_modules.tables import read_clip_table
from egovlpv2.data_modules.word_forms import inflect_verb, read_taxonomy
from egovlpv2.features.queries import read_queries as read_asked
from egovlpv2.heads.answers import read_answers

Files = dict[str, bytes]

EGOCLIP = ("clip_idx", "video_uid", "narration_time", "clip_start", "clip_end", "clip_text", "tag_verb", "tag_noun")
EPIC = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "narration", "verb_class",
        "all_noun_classes")


class Format(NamedTuple):
    """Files that belong together, of which some are mutated, and what reads and checks them."""

    files: Files
    mutated: tuple[str, ...]
    load: Callable[[Path], None]


def formats() -> dict[str, Format]:
    """All of them."""
    return {"egoclip": _egoclip(), "egomcq": _egomcq(), "nlq": _nlq(), "vslnet": _vslnet(), "moments": _moments(),
            "clip_annotations": _clip_annotations(), "classes": _classes(), "queries": _queries(), "qfvs": _qfvs(),
            "qfvs_mat": _qfvs_mat(), "taskqa": _taskqa(), "charades_ego": _charades_ego(), "ek100": _ek100(),
            "relevancy": _relevancy(), "bench": _bench(), "egohoi": _egohoi(), "taxonomy": _taxonomy()}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]], separator: str = ",") -> bytes:
    text = io.StringIO()
    if separator == "\t":
        return "\n".join(separator.join(map(str, row)) for row in [header, *rows]).encode()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def _egoclip() -> Format:
    rows = [(i, f"00{i % 3}", i * 2.5, i * 2.5 - 1, i * 2.5 + 1, f"#C C does {i}", "[1]", "[2, 3]") for i in range(150)]

    def load(folder: Path) -> None:
        table = read_clip_table(folder / "egoclip.csv")
        assert len(table) and table.malformed <= 0.02 * len(table)
        assert (table.start >= 0).all() and (table.end >= table.start).all() and (table.end <= 1e6).all()
        assert all(table.text[i].strip() for i in range(len(table))) and all(isinstance(v, str) for v in table.videos)

    return Format({"egoclip.csv": _table(EGOCLIP, rows, "\t")}, ("egoclip.csv",), load)


def _egohoi() -> Format:
    rows = [(i, f"00{i % 3}", i * 2.5 - 1, i * 2.5 + 1, f"#C C does {i}", "[1]", "[2, 3]", "a,b", "c, d")
            for i in range(150)]
    header = (*(name for name in EGOCLIP if name != "narration_time"), "verb_neg", "noun_neg")

    def load(folder: Path) -> None:
        bench = EgoHOIBench(folder / "egohoi.csv", None)
        assert len(bench) and all(all(bench.negatives(row)) for row in range(len(bench)))

    return Format({"egohoi.csv": _table(header, rows, "\t")}, ("egohoi.csv",), load)


def _taxonomy() -> Format:
    rows = [("take_(pick,_grab)", "['take']"), ("cut", "[]"), ("", "[]")] * 3

    def load(folder: Path) -> None:
        classes = read_taxonomy(folder / "verbs.csv", inflect_verb, 118)
        assert any(words.find(f"#C C {words.forms[0][1]} it") for words in classes if words.forms)

    return Format({"verbs.csv": _table(("label", "group"), rows)}, ("verbs.csv",), load)


def _egomcq() -> Format:
    clip = {"video_uid": "001", "clip_start": -0.5, "clip_end": 2.0, "clip_text": "#C C does"}
    question = {"answer": 3, "types": 1, "query": clip, "choices": {str(i): clip for i in range(5)}}

    def load(folder: Path) -> None:
        questions = EgoMCQ(folder / "egomcq.json", None)
        assert len(questions) and (questions._times[..., 1] >= questions._times[..., 0]).all()

    return Format({"egomcq.json": _json({str(i): question for i in range(3)})}, ("egomcq.json",), load)


def _check_queries(path: Path) -> None:
    queries = [query for clip in read_nlq_queries(path) for query in clip]
    assert all(isinstance(query.text, str) and query.span.duration > 0 for query in queries)
    assert all(-1 <= query.window[0] <= query.window[1] <= 1e6 for query in queries if query.window is not None)
    assert len({query.key for query in queries}) == len(queries)
    assert all(all(texts) for texts in read_asked([str(path)]).values())


def _nlq() -> Format:
    rows = [{"query": "Where?", "clip_start_sec": 1.0, "clip_end_sec": 2, "template": None}, {"template": "x"}]
    clips = [{"clip_uid": f"c{i}", "video_start_sec": 5.0, "video_end_sec": 25.0,
              "annotations": [{"annotation_uid": f"a{i}", "language_queries": rows}]} for i in range(3)]
    content = {"version": "1", "videos": [{"video_uid": "001", "split": "val", "clips": clips}]}
    return Format({"nlq_val.json": _json(content)}, ("nlq_val.json",), lambda f: _check_queries(f / "nlq_val.json"))


def _vslnet() -> Format:
    clip = {"fps": 1.875, "num_frames": 900, "timestamps": [[1, 3]], "exact_times": [[1.0, 2.0], [3, 4.5]],
            "sentences": ["What?", "Who?"], "annotation_uids": ["a", "a"], "query_idx": [0, 1]}
    return Format({"train.json": _json({"001": clip, "b": clip})}, ("train.json",),
                  lambda folder: _check_queries(folder / "train.json"))


def _check_moments(path: Path) -> None:
    clips = list(read_moments(path))
    assert len({clip.span.clip for clip in clips}) == len(clips)
    for clip in clips:
        assert clip.split in ("", "train", "val", "test") and 0 < clip.span.duration <= 1e6 + 1
        assert all(label.strip() and -1 <= start <= end <= 1e6 for label, start, end in clip.instances)


def _moments() -> Format:
    labels = [{"label": "wash", "primary": i != 1, "start_time": i, "end_time": i + 0.5} for i in range(3)]
    clips = [{"clip_uid": f"c{i}", "video_start_sec": -0.01, "video_end_sec": 20.0,
              "annotations": [{"annotator_uid": "x", "labels": labels}]} for i in range(3)]
    return Format({"moments_val.json": _json({"videos": [{"video_uid": "001", "clips": clips}]})},
                  ("moments_val.json",), lambda folder: _check_moments(folder / "moments_val.json"))


def _clip_annotations() -> Format:
    one = {"video_id": "001", "clip_id": "a", "duration": 20.0, "parent_start_sec": 0.0, "parent_end_sec": 20.0,
           "v_duration": 30.0, "subset": "val", "annotations": [{"label": "wash", "segment": [1, 2.5], "label_id": 1}]}
    two = {"v_duration": 30.0, "subset": "train", "annotations": [{"label": "cut", "start_time": 1, "end_time": 2}]}
    return Format({"clip_annotations.json": _json({"a": one, "b": two})}, ("clip_annotations.json",),
                  lambda folder: _check_moments(folder / "clip_annotations.json"))


def _classes() -> Format:
    def load(folder: Path) -> None:
        classes = read_classes(folder / "moment_classes_idx.json")
        assert sorted(classes.values()) == list(range(1, len(classes) + 1))

    return Format({"moment_classes_idx.json": _json({"Background": 0, "wash": 1, "cut": 2})},
                  ("moment_classes_idx.json",), load)


def _queries() -> Format:
    def load(folder: Path) -> None:
        assert all(text for texts in read_asked([str(folder / "q.json")]).values() for text in texts)

    return Format({"q.json": _json({"001": ["Where?", "What?"], "b": []})}, ("q.json",), load)


_QFVS = {"Dense_per_shot_tags/Dictionary.txt": b"'Car'\n'Sky'\n'Tree'\n",
         "Oracle_Summaries/P01/Car_Tree_oracle.txt": b"1\n3\n4\n"}


def _load_qfvs(folder: Path) -> None:
    concepts = read_dictionary(folder)
    tags = read_tags(folder, "P01", concepts)
    (query,) = read_oracles(folder, "P01", concepts, len(tags))
    assert set(np.unique(tags)) <= {0, 1} and (query.oracle >= 0).all() and (query.oracle < len(tags)).all()


def _qfvs() -> Format:
    files = _QFVS | {"Dense_per_shot_tags/P01/P01.txt": b"Car\n\nSky,Tree\nTree\nCar,Sky,Tree\n"}
    return Format(files, tuple(files), _load_qfvs)


def _qfvs_mat() -> Format:
    shots = np.empty((5, 1), dtype=object)
    for i in range(5):
        shots[i, 0] = np.array([[i % 2, 1, 0]], dtype=np.uint8)
    videos = np.empty((1, 1), dtype=[("Bin_Vecs", object)])
    videos[0, 0]["Bin_Vecs"] = shots
    raw = io.BytesIO()
    savemat(raw, {"Tags": videos})
    return Format(_QFVS | {"Tags.mat": raw.getvalue()}, ("Tags.mat",), _load_qfvs)


def _taskqa() -> Format:
    rows = [{"interval": "001", "question": "what?", "answer": "cup", "answer_encode": 1, "question_id": i,
             "reasoning_type": "descriptive$object", "type": ["descriptive"]} for i in range(3)]
    files = {"qas.json": _json(rows), "answer_set.txt": b"<UNK1>\ncup\nknife\n", "kinds.txt": b"object\nworld\n"}

    def load(folder: Path) -> None:
        questions = read_questions(folder / "qas.json", read_answers(folder / "answer_set.txt"))
        assert len({question.key for question in questions}) == len(questions)
        assert "all" in kind_names(questions, folder / "kinds.txt")

    return Format(files, tuple(files), load)


def _charades_ego() -> Format:
    rows = [(f"00{i}EGO", "c000 0.0 4.5;c001 3 12", 10.0 + i) for i in range(4)]
    files = {"v.csv": _table(("id", "actions", "length"), rows), "classes.txt": b"c000 Holding\nc001 Eating a cup\n"}

    def load(folder: Path) -> None:
        module = CharadesEgoDataModule(str(folder), train="v.csv", val="v.csv", test="v.csv", classes="classes.txt")
        for split in ("train", "test"):
            found = module.load(split)
            assert len(found) and (found.span[:, 1] >= found.span[:, 0]).all() and len(found.texts) == 2

    return Format(files, tuple(files), load)


def _epic() -> Files:
    rows = [(f"P01_{i}", "P01", "001", f"00:00:0{i}.5", f"00:00:0{i + 1}.00", f"take {i}", i % 2, f"[{i}, 7]")
            for i in range(4)]
    texts = [(f"P01_{i}", f"take {i}") for i in range(3)]
    return {"test.csv": _table(EPIC, rows), "sentences.csv": _table(("narration_id", "narration"), texts),
            "train_sentences.csv": _table(("narration_id", "narration", "verb_class", "noun_classes"),
                                          [(*text, 1, "[2, 2]") for text in texts])}


def _ek100() -> Format:
    def load(folder: Path) -> None:
        module = EK100DataModule(str(folder), train="test.csv", val="test.csv", test="test.csv",
                                 train_sentences="train_sentences.csv", test_sentences="sentences.csv")
        for split in ("train", "test"):
            found = module.load(split)
            assert len(set(found.keys)) == len(found) and (found.span[:, 1] >= found.span[:, 0]).all()
            assert all(map(str.strip, found.texts)) and found.relevancy.full().isfinite().all()

    return Format(_epic(), tuple(_epic()), load)


def _relevancy() -> Format:
    parts = {"table": np.eye(4, 3, dtype=np.float32), "clip": np.arange(4), "text": np.arange(3)}
    files = _epic() | {"r.safetensors": save(parts, {"labels": "0" * 64})}

    def load(folder: Path) -> None:
        module = EK100DataModule(str(folder), test="test.csv", test_sentences="sentences.csv",
                                 test_relevancy="r.safetensors")
        found = module.load("test").relevancy.full()
        assert found.shape == (4, 3) and (found >= 0).all() and (found <= 1.001).all()

    return Format(files, ("r.safetensors",), load)


def _bench() -> Format:
    content = {"device": "one A100", "date": "2026-11-23", "figures": [{"what": OPENED, "value": 250.0, "unit": ""}]}

    def load(folder: Path) -> None:
        assert all(entry.source for entry in read_bench(folder / "bench.json", "a100").values())

    return Format({"bench.json": _json(content)}, ("bench.json",), load)

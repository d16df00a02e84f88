"""Metrics of moments agree with Ego4D's evaluators."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import REAL_DATA

from egovlpv2.heads import soft_nms
from egovlpv2.metrics import moment_map, moment_recall, nlq_recall

GOLDEN = Path(__file__).parents[1] / "golden"
REAL = REAL_DATA


@pytest.fixture(scope="module")
def nlq() -> dict[str, Any]:
    return json.loads((GOLDEN / "nlq_eval.json").read_text())


@pytest.fixture(scope="module")
def mq() -> dict[str, Any]:
    return json.loads((GOLDEN / "mq_eval.json").read_text())


def test_nlq_agrees_with_the_official_evaluation(nlq: dict[str, Any]) -> None:
    recall, mean_iou = nlq_recall(nlq["predictions"], nlq["ground_truth"], nlq["thresholds"], nlq["topk"])
    np.testing.assert_allclose(recall, nlq["recall[threshold][k]"], atol=1e-6)
    assert mean_iou == pytest.approx(nlq["mean_iou_top3"], abs=1e-6)
    with pytest.raises(ValueError, match="1 predictions are of no query .*'c99'"):
        nlq_recall([nlq["predictions"][0] | {"clip_uid": "c99"}], nlq["ground_truth"], [0.3], [1])
    with pytest.raises(ValueError, match="no predictions"):
        nlq_recall([], nlq["ground_truth"], [0.3], [1])


def test_moments_agree_with_the_official_evaluation(mq: dict[str, Any]) -> None:
    predictions, truth = mq["predictions"], mq["ground_truth"]
    np.testing.assert_allclose(moment_map(predictions, truth, mq["tiou"]), mq["map"], atol=1e-6)
    recall = moment_recall(predictions, truth, mq["recall_tiou"], mq["recall_k"])
    np.testing.assert_allclose(recall, mq["recall[tiou][k]x"], atol=1e-6)


def test_soft_nms_agrees_with_the_authors(mq: dict[str, Any]) -> None:
    golden = mq["soft_nms"]
    rows = mq["predictions"][golden["clip"]]
    segments, scores, index = soft_nms([row["segment"] for row in rows], [row["score"] for row in rows],
                                       golden["sigma"], golden["max_proposals"])
    np.testing.assert_allclose(np.column_stack([segments, scores]), np.array(golden["output"])[:, :3], atol=1e-6)
    assert [int(rows[i]["label"].removeprefix("act_")) + 1 for i in index] == [int(row[3]) for row in golden["output"]]
    assert len(soft_nms([[0, 1], [2, 3], [4, 5]], [0.1, 0.9, 0.5], 0.46, 1)[0]) == 1
    assert len(soft_nms([], [], 0.46, 5)[0]) == 0


def test_moments_by_hand() -> None:
    truth = {"a": {"annotations": [{"label": "x", "start_time": 0, "end_time": 10},
                                   {"label": "y", "segment": [5, 6], "label_id": 1}]}}
    scored = [(0.9, [20, 30]), (0.8, [0, 9]), (0.7, [0, 10])]
    found = {"a": [{"label": "x", "score": score, "segment": segment} for score, segment in scored],
             "b": [{"label": "z", "score": 1, "segment": [0, 1]}]}
    # Class x: a miss, a hit, and a second hit of the same instance, which is none; class y: nothing found.
    assert moment_map(found, truth, [0.5, 0.95]) == pytest.approx([0.25, 1 / 6])
    assert moment_recall(found, truth, [0.5], [1, 2]) == [[0.0, 0.5]]
    assert moment_map({}, truth, [0.5]) == [0.0] and moment_recall({}, truth, [0.5], [1]) == [[0.0]]


@pytest.mark.skipif(not REAL.is_dir(), reason="EGOVLPV2_REAL_DATA has no such files")
def test_perfect_predictions_of_real_annotations() -> None:
    truth = json.loads((REAL / "nlq" / "nlq_val.json").read_text())
    perfect = [
        {"clip_uid": clip["clip_uid"], "annotation_uid": annotation["annotation_uid"], "query_idx": i,
         "predicted_times": [[query["clip_start_sec"], query["clip_end_sec"]]]}
        for video in truth["videos"] for clip in video["clips"] for annotation in clip["annotations"]
        for i, query in enumerate(annotation["language_queries"])
    ]
    assert len(perfect) == 3875
    recall, _ = nlq_recall(perfect, truth, [0.3], [1])
    assert 100 * recall[0][0] == pytest.approx(100 * (3875 - 342) / 3875)  # 91: windows of zero length can't be hit
    moments = json.loads((REAL / "mq" / "ego4d_clip_annotations.json").read_text())
    best = {clip: [{"label": row["label"], "segment": row["segment"], "score": 1.0} for row in entry["annotations"]]
            for clip, entry in moments.items()}
    assert moment_map(best, moments, [0.1, 0.5]) == pytest.approx([1.0, 1.0])

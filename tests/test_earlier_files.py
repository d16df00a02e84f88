"""Files that version 0.1 wrote are still read: weights, checkpoints, features and an index.

The files in tests/golden/version_0_1 and the numbers below come from that version, with a backbone 8 wide. The features
are of three windows of `windows()` and of the queries "a cup" and "a knife", whose tokens are `QUERIES`. The heads were
trained for two steps of `Trainer.fit` on the rows below, those of MQ with groups of two channels in its normalization.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from egovlpv2 import Index, fuse_features, load_backbone
from egovlpv2.batch import Text
from egovlpv2.checkpoints.head_weights import read_answer_head, read_summary_head
from egovlpv2.features import fuse, query_encoding, read_features
from egovlpv2.features.files import FeatureFolder
from egovlpv2.heads import vsgn
from egovlpv2.optim import OptimizerConfig
from egovlpv2.search import index as index_module
from egovlpv2.tasks.mq import MQ
from egovlpv2.tasks.nlq import NLQ

FILES = ROOT / "tests" / "golden" / "version_0_1"

QUERIES = Text(input_ids=torch.tensor([[0, 5, 6, 2], [0, 9, 2, 1]]),
               attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))


def clip() -> torch.Tensor:
    return (torch.arange(2 * 3 * 256).view(1, 2, 3, 16, 16) * 7 % 256).to(torch.uint8)


@pytest.mark.parametrize("name", ["weights.safetensors", "taskqa.ckpt"])
def test_weights_give_the_same_numbers(name: str) -> None:
    backbone = load_backbone(FILES / name, num_frames=2)
    text = Text(input_ids=torch.tensor([[0, 5, 6, 2]]), attention_mask=torch.ones(1, 4, dtype=torch.long))
    with torch.no_grad():
        embedding, match = backbone.embed_video(clip())[0, :3], backbone.vtm_logits(clip(), text)[0]
        tokens = backbone.mlm_logits(clip(), text)[0, 1, :2]
    torch.testing.assert_close(embedding, torch.tensor([-0.69126534, -0.19599044, -0.09918298]))
    torch.testing.assert_close(match, torch.tensor([-0.84821868, 0.77510458]))
    torch.testing.assert_close(tokens, torch.tensor([0.07434720, 0.08338468]))


def test_heads_are_read_with_their_facts() -> None:
    head, facts = read_answer_head(FILES / "taskqa.ckpt")
    assert head is not None and facts["answers"] == ["yes", "no", "cup"]
    assert (facts["max_tokens"], facts["num_frames"]) == (9, 2)
    summary, facts = read_summary_head(FILES / "qfvs.ckpt")
    assert summary.design == "paper" and (facts["cut_by"], facts["max_segments"]) == ("patches", 20)


def test_an_index_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class NoTokenizer:
        """The index's tokenizer is not among the files."""

    shutil.copytree(FILES, tmp_path / "old")
    monkeypatch.setattr(index_module, "load_fitting_tokenizer", lambda *_: NoTokenizer())
    ids = Text(input_ids=torch.tensor([[0, 5, 6, 2]]), attention_mask=torch.ones(1, 4, dtype=torch.long))
    monkeypatch.setattr("egovlpv2.features.query_encoding.tokenize", lambda *_: ids)
    index = Index(tmp_path / "old" / "index", weights=str(tmp_path / "old" / "weights.safetensors"), device="cpu")
    assert index.max_tokens == 9
    values = read_features(FILES / "index" / "a.safetensors").values.float()
    with torch.no_grad():
        query = torch.nn.functional.normalize(index.backbone.embed_text(ids)[0], dim=0)
    best = int((values @ query).argmax())
    moment = index.search("#C C", top=1)[0]
    assert (moment.video, moment.start, moment.window_index) == ("a", float(best), best)
    assert moment.cosine == pytest.approx(float(values[best] @ query), abs=1e-5)


def windows() -> torch.Tensor:
    return (torch.arange(3 * 2 * 3 * 256).view(3, 2, 3, 16, 16) * 7 % 256).to(torch.uint8)


def test_a_trunk_is_fused_to_the_same_features(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights, trunks = FILES / "weights.safetensors", FILES / "trunk"
    with torch.no_grad():
        trunk = load_backbone(weights, num_frames=2).trunk_video(windows(), gate=True)
    stored = torch.cat(list(FeatureFolder(trunks).pieces("a", 2)))
    torch.testing.assert_close(stored.float(), trunk, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(fuse, "open_tokenizer", lambda *_: None)
    monkeypatch.setattr(query_encoding, "tokenize", lambda *_: QUERIES)
    (tmp_path / "queries.json").write_text(json.dumps({"a": ["a cup", "a knife"]}))
    report = fuse_features(str(trunks), str(weights), tmp_path / "fused", [str(tmp_path / "queries.json")],
                           kind="fused", device="cpu")
    assert report.written == 1
    now, before = read_features(tmp_path / "fused" / "a.safetensors"), read_features(FILES / "fused" / "a.safetensors")
    assert now.recipe == before.recipe and before.queries == ["a cup", "a knife"] and before.values.shape == (3, 2, 8)
    for name in ("values", "unfused", "unfused_cls", "words"):
        torch.testing.assert_close(getattr(now, name), getattr(before, name), rtol=2e-3, atol=2e-3)


def wave(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape).mul(0.37).sin()


def test_a_head_of_nlq_gives_the_same_numbers() -> None:
    task = NLQ(OptimizerConfig(), 8, 8, dim=8, num_heads=2, max_positions=8, weights=str(FILES / "nlq.ckpt")).eval()
    assert (task.features_before["kind"], task.features_before["checkpoint"]) == ("fused", "c15ff0286387b815")
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    with torch.no_grad():
        out = task.head(wave(2, 6, 8), mask, wave(2, 3, 8).cos(), mask[:, 1:4])
    torch.testing.assert_close(out.highlight[0, :3], torch.tensor([0.10586471, 0.16316424, 0.01806284]))
    torch.testing.assert_close(out.start_logits[0, :3], torch.tensor([0.03562124, 0.67737079, -0.41944584]))
    torch.testing.assert_close(out.end_logits[0, :3], torch.tensor([-0.38384891, -0.43343481, -0.32969943]))


def test_a_head_of_mq_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vsgn, "_NORM_GROUPS", 4)  # for a head 8 wide
    task = MQ(OptimizerConfig(), in_dim=8, num_classes=3, num_steps=16, num_levels=2, dim=8, num_neighbours=2,
              weights=str(FILES / "mq.ckpt")).eval()
    assert task.features_before["kind"] == "projected"
    with torch.no_grad():
        out = task.head(wave(2, 8, 16), torch.tensor([16, 10]))
    torch.testing.assert_close(out.actionness[0, :3], torch.tensor([0.58518076, 0.58327532, 0.58320242]))
    torch.testing.assert_close(out.adjusted_segments[0, 0], torch.tensor([0.81111991, 0.16132125]))
    torch.testing.assert_close(out.class_logits[0, 0], torch.tensor([1.10040772, -0.36311668, 0.25332266]))

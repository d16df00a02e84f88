"""Files that version 0.1 wrote are still read: weights, checkpoints, features and an index.

The files in tests/golden/version_0_1 and the numbers below come from that version, with a backbone 8 wide.
"""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from egovlpv2 import Index, load_backbone
from egovlpv2.batch import Text
from egovlpv2.checkpoints.head_weights import read_answer_head, read_summary_head
from egovlpv2.features import read_features
from egovlpv2.search import index as index_module

FILES = ROOT / "tests" / "golden" / "version_0_1"


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
    monkeypatch.setattr(index_module, "tokenize", lambda *_: ids)
    index = Index(tmp_path / "old" / "index", weights=str(tmp_path / "old" / "weights.safetensors"), device="cpu")
    assert index.max_tokens == 9
    values = read_features(FILES / "index" / "a.safetensors").values.float()
    with torch.no_grad():
        query = torch.nn.functional.normalize(index.backbone.embed_text(ids)[0], dim=0)
    best = int((values @ query).argmax())
    moment = index.search("#C C", top=1)[0]
    assert (moment.video, moment.start, moment.window_index) == ("a", float(best), best)
    assert moment.cosine == pytest.approx(float(values[best] @ query), abs=1e-5)

"""What the command says is what the model costs."""

import json
from pathlib import Path

import pytest
import torch
from helpers import make_text

from egovlpv2.analysis.complexity import complexity, gmacs, read_model_config
from egovlpv2.cli import main as cli

BASE = Path(__file__).parents[2] / "conf" / "model" / "base.yaml"


@pytest.mark.parametrize("attends_to, bar", [("current", 210), ("previous", 195)])
def test_base_model(attends_to: str, bar: float, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["complexity", "--config", str(BASE), "--text-attends-to", attends_to, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"] / 1e6 == pytest.approx(381.6, abs=0.05)  # the paper's Table 7
    assert report["gmacs"]["unshared"] == pytest.approx(304.5, abs=0.1)
    assert report["gmacs"]["ours"] <= bar
    assert sum(report["gmacs"]["by_objective"].values()) == pytest.approx(report["gmacs"]["ours"])


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    cli(["complexity", "--config", str(BASE)])
    assert "if the objectives shared nothing" in capsys.readouterr().out


def test_attention_is_counted(make_backbone) -> None:
    """By hand: one text block of the small model, closed gate."""
    backbone, length, dim, hidden = make_backbone().to("meta"), 7, 32, 48
    tower = backbone.text_tower
    x, mask = torch.empty(1, length, dim, device="meta"), make_text(1)["attention_mask"].bool().to("meta")
    macs, _ = gmacs(lambda: tower.blocks[0](x, mask))
    assert macs * 1e9 == 4 * length * dim**2 + 2 * length * dim * hidden + 2 * length**2 * dim


def test_stacked_layers_leave_the_video_alone(small_config) -> None:
    """By hand: what two more layers cost a match, beside the towers."""
    config = small_config(fusion="stacked", num_fused_layers=2)
    macs, words, tokens, text, video = complexity(config, num_tokens=7)["gmacs"], 7, 1 + 4 * 4, 32, 24
    of_words = (12 * words * text**2 + 2 * words * text**2 + 2 * tokens * video * text
                + 2 * words**2 * text + 2 * words * tokens * text)
    of_cls = (2 * video**2 + 2 * tokens * video**2 + 2 * tokens * video
              + 2 * video**2 + 2 * words * text * video + 2 * words * video + 8 * video**2)
    heads = 2 * (video**2 + text**2) + 2 * (video + text)
    assert macs["by_objective"]["vtm"] * 1e9 == 2 * (of_words + of_cls) + heads
    assert macs["ours"] < macs["video_once"] < macs["unshared"]


def test_own_cls_costs_a_second_trunk(small_config) -> None:
    shared, own = (complexity(small_config(fusion_cls=kind))["gmacs"] for kind in ("shared", "own"))
    assert own["ours"] > shared["ours"] and own["unshared"] == pytest.approx(shared["unshared"])


def test_unknown_keys_of_a_model_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("model: {init_args: {backbone: {number_of_layers: 3}}}")
    with pytest.raises(Exception, match="number_of_layers"):
        read_model_config(str(path))

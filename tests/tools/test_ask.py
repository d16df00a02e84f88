"""`egovlpv2 ask`: the answers of a fine-tuned model, best first, whoever wrote its weights."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from golden.fill_state import fill
from helpers import ROOT, draw_parameters, make_config
from torch import Tensor
from video.numbered_videos import write_video

from egovlpv2.checkpoints.weights import load_backbone, save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.model.backbone import Backbone
from egovlpv2.optim import OptimizerConfig
from egovlpv2.tasks.taskqa import TaskQA
from egovlpv2.tokenization import load_tokenizer, tokenize
from egovlpv2.video.decode import read_frames
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

ANSWERS = ["<UNK1>", "knife", "yes", "no", "take the cup", "bread", "put"]
QUESTION = "w10 w20 w30"
LAYOUT = ROOT / "tests" / "golden" / "egovlpv2_state_layout.json"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Six seconds that change."""
    draw = np.random.default_rng(0)
    return write_video(tmp_path / "film.mp4", fps=8, pictures=[
        np.kron(draw.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(48)])


@pytest.fixture
def tuned(tokenizer: str, tmp_path: Path) -> Callable[..., tuple[Path, TaskQA]]:
    """A function that makes a checkpoint as a training leaves it, with its task."""

    def make(max_tokens: int = 9, num_frames: int = 4, **changes: Any) -> tuple[Path, TaskQA]:
        torch.manual_seed(1)
        task = TaskQA(make_config(tokenizer=tokenizer, **changes), OptimizerConfig(), len(ANSWERS)).eval()
        draw_parameters(task)
        data = SimpleNamespace(answers=ANSWERS, eval_max_tokens=max_tokens, eval_num_frames=num_frames)
        checkpoint: dict[str, Any] = {"state_dict": task.state_dict(), "epoch": 3, "global_step": 9}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TaskQA, "trainer", SimpleNamespace(datamodule=data))
            task.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, tmp_path / "best.ckpt")
        return tmp_path / "best.ckpt", task

    return make


@torch.no_grad()
def probabilities(backbone: Backbone, head: dict[str, Tensor], video: Path, tokenizer: str, question: str = QUESTION,
                  span: tuple[float, float] = (0, 6), frames: int = 4, max_tokens: int = 9) -> list[float]:
    """How probable each answer is."""
    shown = read_frames(video, uniform_times(*span, frames), EvalTransform(32)).frames
    cls = backbone.fused_features(shown[None], tokenize(load_tokenizer(tokenizer), [question], max_tokens))[0]
    hidden = (head["hidden.weight"] @ cls + head["hidden.bias"]).clamp(min=0)
    logits = (head["out.weight"] @ hidden + head["out.bias"]).double()
    return (logits.exp() / logits.exp().sum()).tolist()


def ask(video: Path, weights: Path, *more: object) -> list[str]:
    return ["ask", str(video), "--weights", str(weights), "--question", QUESTION, "--device", "cpu", *map(str, more)]


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    lines = re.findall(r"^  +(\d\.\d{3})  (.+)$", capsys.readouterr().out, re.MULTILINE)
    return {answer: float(value) for value, answer in lines}


def check(found: dict[str, float], expected: list[float], count: int = 5) -> None:
    """The best answers and their probabilities, in order."""
    assert max(expected) - min(expected) > 0.02 and np.diff(np.sort(expected)).min() > 1e-6
    best = sorted(range(len(ANSWERS)), key=lambda i: -expected[i])[:count]
    assert list(found) == [ANSWERS[i] for i in best]
    assert list(found.values()) == pytest.approx([expected[i] for i in best], abs=1e-3)


@pytest.mark.parametrize("fusion_cls", ["shared", "own"])
def test_the_best_answers_in_order(tuned: Callable[..., tuple[Path, TaskQA]], video: Path, tokenizer: str,
                                   fusion_cls: str, capsys: pytest.CaptureFixture[str]) -> None:
    weights, task = tuned(fusion_cls=fusion_cls)
    head = task.answer_head.state_dict()
    expected = probabilities(task.backbone, head, video, tokenizer)
    cli(ask(video, weights))
    check(printed(capsys), expected)
    for top, count in ((2, 2), (100, len(ANSWERS))):
        cli(ask(video, weights, "--top", top))
        check(printed(capsys), expected, count)
    cli(ask(video, weights, "--question", f"  {QUESTION.upper()} "))
    check(printed(capsys), expected)
    other = probabilities(task.backbone, head, video, tokenizer, "w99 w98")
    assert max(abs(a - b) for a, b in zip(other, expected, strict=True)) > 0.0015  # more than `check` allows
    cli(ask(video, weights, "--question", "w99 w98"))
    check(printed(capsys), other)


def test_a_part_of_the_video(tuned: Callable[..., tuple[Path, TaskQA]], video: Path, tokenizer: str,
                             capsys: pytest.CaptureFixture[str]) -> None:
    weights, task = tuned()
    found = []
    for span, options in (((2, 4.5), ("--start", 2, "--end", 4.5)), ((2, 6), ("--start", 2)), ((0, 1), ("--end", 1)),
                          ((0, 6), ("--end", 60))):
        expected = probabilities(task.backbone, task.answer_head.state_dict(), video, tokenizer, span=span)
        cli(ask(video, weights, *options))
        check(printed(capsys), expected)
        found.append(round(expected[0], 3))
    assert len(set(found)) == 4


def test_the_checkpoint_tells_frames_and_words(tuned: Callable[..., tuple[Path, TaskQA]], video: Path, tokenizer: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    """Of a training with more frames than the temporal embedding has, and with shorter questions."""
    weights, task = tuned(max_tokens=2, num_frames=6)
    head, backbone = task.answer_head.state_dict(), load_backbone(weights, 6)
    cli(ask(video, weights))
    check(printed(capsys), probabilities(backbone, head, video, tokenizer, frames=6, max_tokens=2))
    cli(ask(video, weights, "--max-tokens", 9))
    expected = probabilities(backbone, head, video, tokenizer, frames=6, max_tokens=9)
    assert max(abs(a - b) for a, b in zip(
        expected, probabilities(backbone, head, video, tokenizer, frames=6, max_tokens=2), strict=True)) > 2e-3
    check(printed(capsys), expected)


def test_a_long_question_is_cut_and_says_so(tuned: Callable[..., tuple[Path, TaskQA]], video: Path, tokenizer: str,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    weights, task = tuned()
    question = " ".join(f"w{i}" for i in range(100, 500))
    cli(ask(video, weights, "--question", question))
    out = capsys.readouterr()
    assert "the question has 402 tokens and is cut to 9 (--max-tokens)" in out.out
    cli(ask(video, weights, "--question", " ".join(question.split()[:7])))
    short = capsys.readouterr()
    assert "cut" not in short.out and out.out.splitlines()[1:] == short.out.splitlines()


def test_answers_of_a_file(tuned: Callable[..., tuple[Path, TaskQA]], video: Path, tokenizer: str, tmp_path: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:
    weights, task = tuned()
    file = tmp_path / "answer_set.txt"
    file.write_text("".join(f"the {answer}\r\n" for answer in ANSWERS) + "\r\n")
    cli(ask(video, weights, "--answers", file))
    found = {answer.removeprefix("the "): value for answer, value in printed(capsys).items()}
    check(found, probabilities(task.backbone, task.answer_head.state_dict(), video, tokenizer))
    file.write_text("\n".join(ANSWERS[:4]))
    refused(ask(video, weights, "--answers", file),
            "answer_set.txt lists 4 answers and the weights choose among 7: take the answer set that they")
    refused(ask(video, weights, "--answers", tmp_path / "none.txt"), "none.txt")


def refused(arguments: list[str], match: str) -> None:
    with pytest.raises(SystemExit, match=match) as end:
        cli(arguments)
    assert str(end.value).startswith("egovlpv2 ask: error: ")


def test_what_a_user_gets_wrong_is_one_line(tuned: Callable[..., tuple[Path, TaskQA]], video: Path, tmp_path: Path,
                                            make_backbone: Callable[..., Backbone]) -> None:
    weights, task = tuned()
    refused(ask(video, weights, "--question", "  "), "--question is empty: ask something")
    for name in ("top", "max-tokens"):
        refused(ask(video, weights, f"--{name}", 0), f"--{name} 0: give a (whole|finite) number")
    for options in (("--start", 6), ("--start", 3, "--end", 2), ("--start", -1), ("--end", 0)):
        refused(ask(video, weights, *options), "--start .* --end .*: give times in the video.*film.mp4 lasts 6.0 s")
    refused(ask(tmp_path / "none.mp4", weights), "none.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    refused(ask(tmp_path / "broken.mp4", weights), "broken.mp4")
    refused(ask(video, tmp_path / "none.ckpt"), "none.ckpt is missing: give a weights file")
    save_backbone(task.backbone, tmp_path / "plain.safetensors")
    file = torch.load(weights, weights_only=True)
    pretrained = {name: value for name, value in file["state_dict"].items() if name.startswith("backbone.")}
    torch.save({"state_dict": pretrained, "egovlpv2": {"backbone": file["egovlpv2"]["backbone"]}},
               tmp_path / "pretrained.ckpt")
    for name in ("plain.safetensors", "pretrained.ckpt"):
        refused(ask(video, tmp_path / name), f"{name} has no head that answers: `make finetune-taskqa` trains one")


def released(answers: int) -> dict[str, Tensor]:
    """Weights by the authors' names, small: three layers, of which two are fused; frames of 32 px."""
    sizes = {768: 64, 1536: 128, 2304: 192, 3072: 256, 4096: 16, 50265: 600, 514: 40, 197: 5}
    state = {}
    for key, shape in json.loads(LAYOUT.read_text()).items():
        layer = re.search(r"(?<=blocks\.|.layer\.)\d+(?=\.)", key)
        if key.endswith("position_ids") or layer and not 5 <= int(layer[0]) <= 7:
            continue
        name = key if not layer else key[:layer.start()] + str(int(layer[0]) - 5) + key[layer.end():]
        state[name] = fill(name, tuple(sizes.get(side, side) for side in shape))
    shapes = {"projector_1.weight": (answers, 64), "projector_1.bias": (answers,),
              "projector_2.weight": (answers, answers), "projector_2.bias": (answers,)}
    return state | {name: 2 * fill(name, shape) for name, shape in shapes.items()}


def test_released_weights_answer_too(video: Path, tokenizer: str, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    state, weights = released(len(ANSWERS)), tmp_path / "direct.pth"
    torch.save({"model_state_dict": {f"module.{name}": value for name, value in state.items()}, "global_step": 3},
               weights)
    refused(ask(video, weights, "--tokenizer", tokenizer), "don't hold their answers: give the answer_set.txt")
    (tmp_path / "answer_set.txt").write_text("\n".join(ANSWERS))
    cli(ask(video, weights, "--answers", tmp_path / "answer_set.txt", "--tokenizer", tokenizer))
    head = {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for ours, theirs in (("hidden", "projector_1"), (
        "out", "projector_2")) for kind in ("weight", "bias")}
    backbone = load_backbone(weights)
    assert len(backbone.video_tower.blocks) == 3 and backbone.config.num_fused_layers == 2
    check(printed(capsys), probabilities(backbone, head, video, tokenizer, max_tokens=30))

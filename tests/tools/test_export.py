"""Exported files give the backbone's embeddings, without this package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from helpers import ROOT, WORDS, draw_parameters, make_config
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize

from egovlpv2 import export_backbone, load_backbone
from egovlpv2.bench.made_up import made_up_tokenizer
from egovlpv2.checkpoints.inference import fingerprint, open_tokenizer
from egovlpv2.checkpoints.weights import save_backbone
from egovlpv2.cli import main as cli
from egovlpv2.io.files import write_json
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import tokenize
from egovlpv2.tools import export
from egovlpv2.tools.export_int8 import Encoders, measure_top1, pick_questions
from egovlpv2.tools.export_sides import Side, compare, text_side, video_side, write_side
from egovlpv2.video.container import VideoError

TEXTS = ["c c opens the jar", "jar", " ".join(["opens the jar"] * 20)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    backbone = Backbone(make_config(tokenizer=made_up_tokenizer(tmp_path_factory.mktemp("tokenizer"), WORDS)))
    draw_parameters(backbone)
    save_backbone(backbone, folder / "w.safetensors")
    return folder / "w.safetensors"


@pytest.fixture(scope="module")
def exported(weights: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX export with int8 for clips of 3 frames."""
    out = tmp_path_factory.mktemp("out") / "exported"
    data = ["--questions", str(toy / "egomcq_test.json"), "--videos", str(toy / "videos"), "--chunk-seconds", "8"]
    cli(["export", str(weights), str(out), "--num-frames=3", "--max-tokens=9", "--int8", *data, "--num-questions=6"])
    return out


@pytest.fixture(scope="module")
def programs(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for torch.export."""
    out = tmp_path_factory.mktemp("out") / "exported"
    export_backbone(str(weights), out, format="torch", num_frames=3, max_tokens=9)
    return out


def expected(weights: Path, batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Inputs of both sides, and the backbone's embeddings of them."""
    backbone = load_backbone(weights, num_frames=3)
    text = tokenize(open_tokenizer(backbone), TEXTS[:batch], 9, "longest")
    torch.manual_seed(batch)
    video = torch.randint(0, 256, (batch, 3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        return ({"video": video}, dict(text), normalize(backbone.embed_video(video), dim=-1),
                normalize(backbone.embed_text(text), dim=-1))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_onnx_files_give_the_backbones_embeddings(weights: Path, exported: Path, batch: int) -> None:
    video, text, of_video, of_text = expected(weights, batch)
    for name, feed, wanted in (("video", video, of_video), ("text", text, of_text)):
        session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
        (found,) = session.run([f"{name}_embedding"], {key: value.numpy() for key, value in feed.items()})
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=0)
        assert session.get_inputs()[0].shape[0] == "batch"


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_torch_programs_give_the_backbones_embeddings(weights: Path, programs: Path, batch: int) -> None:
    video, text, of_video, of_text = expected(weights, batch)
    for name, feed, wanted in (("video", video, of_video), ("text", text, of_text)):
        program = torch.export.load(programs / f"{name}.pt2")
        torch.testing.assert_close(program.module()(*feed.values()), wanted, atol=1e-4, rtol=0)
        others = "text" if name == "video" else "video"
        assert not any(value.numel() for key, value in program.state_dict.items() if key.startswith(
            (f"backbone.{others}_tower", "backbone.masked_word_head", "backbone.match_head")))


def test_the_folder_says_what_is_in_it(weights: Path, exported: Path, programs: Path) -> None:
    assert sorted(os.listdir(exported)) == ["export.json", "text.int8.onnx", "text.onnx", "tokenizer.json",
                                            "video.int8.onnx", "video.onnx"]
    assert sorted(os.listdir(programs)) == ["export.json", "text.pt2", "tokenizer.json", "video.pt2"]
    facts = json.loads((exported / "export.json").read_text())
    assert facts["weights"] == fingerprint(weights) and facts["embedding"] == {"width": 8, "length": 1.0}
    assert facts["video"]["inputs"] == {"video": {"shape": ["batch", 3, 3, 32, 32], "type": "uint8"}}
    assert facts["text"]["inputs"]["input_ids"] == {"shape": ["batch", "tokens"], "type": "int64"}
    assert facts["text"]["max_tokens"] == 9 and facts["int8"]["top1"]["questions"] == 6
    assert (facts["opset"], facts["format"]) == (20, "onnx")


def test_no_path_of_the_machine_is_in_the_files(weights: Path, exported: Path, programs: Path) -> None:
    for file in [*exported.iterdir(), *programs.iterdir()]:
        content = file.read_bytes()
        found = [path for path in (weights.parents[1], ROOT, Path(torch.__file__).parents[1], Path.home())
                 if str(path).encode() + b"/" in content]
        assert not found, file.name


def test_the_tokenizer_cuts_and_pads_as_the_backbones_does(weights: Path, exported: Path) -> None:
    _, text, *_ = expected(weights, 3)
    found = Tokenizer.from_file(str(exported / "tokenizer.json")).encode_batch(TEXTS)
    assert [one.ids for one in found] == text["input_ids"].tolist()
    assert [one.attention_mask for one in found] == text["attention_mask"].tolist()


@pytest.mark.parametrize(("fixture", "without"), [("exported", "torch"), ("programs", "onnxruntime")])
def test_the_scripts_of_the_documentation_run_without_this_package(fixture: str, without: str,
                                                                   request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    page = (ROOT / "docs" / "export.md").read_text()
    (code,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
               if "exported/tokenizer.json" in text and without not in text]
    absent = "".join(f"sys.modules[{name!r}] = None\n" for name in ("egovlpv2", "transformers", "timm", without))
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", f"import sys\n{absent}{code}"], cwd=folder.parent,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", run.stdout)]
    assert len(numbers) == 2 and all(abs(number) <= 1.0001 for number in numbers)


def test_int8_files_are_smaller_and_near(weights: Path, exported: Path) -> None:
    video, _, of_video, _ = expected(weights, 3)
    session = onnxruntime.InferenceSession(exported / "video.int8.onnx")
    (found,) = session.run(None, {"video": video["video"].numpy()})
    assert (torch.from_numpy(found) * of_video).sum(1).min() > 0.9
    assert (exported / "text.int8.onnx").stat().st_size < (exported / "text.onnx").stat().st_size


def test_top1_counts_the_questions_whose_best_clip_is_the_answer(toy: Path) -> None:
    questions = pick_questions(toy / "egomcq_test.json", 5)
    assert 2 <= len(questions) <= 5
    broken = questions[1]

    def read(question) -> Tensor:
        if question is broken:
            raise VideoError("a.mp4 is damaged")
        return torch.eye(5)[question.answer][:, None]

    right = Encoders(lambda video: video, lambda text: torch.ones(1, 1))
    wrong = Encoders(lambda video: -video, lambda text: torch.ones(1, 1))
    found = measure_top1(questions, read, lambda text: [torch.zeros(1)], right, wrong)
    assert found == (len(questions) - 1, 1, 100, 0) and found.loss == 100
    with pytest.raises(ValueError, match="none of the 1 questions can be read.*a.mp4 is damaged"):
        measure_top1([broken], read, lambda text: [torch.zeros(1)], right, wrong)


@pytest.mark.parametrize("changes", [
    {"attention": "joint"}, {"name": "vit_small_patch16_dinov3"},
    *(pytest.param(more, marks=pytest.mark.slow) for more in ({"fusion": "stacked"}, {"fusion_cls": "own"},
                                                              {"name": "vit_base_patch16_siglip_224"}))])
def test_other_backbones_are_exported_as_well(tokenizer: str, tmp_path: Path, changes: dict) -> None:
    of_video = {key: value for key, value in changes.items() if key in ("attention", "name")}
    config = make_config(tokenizer=tokenizer, **{key: value for key, value in changes.items() if key not in of_video})
    for key, value in of_video.items():
        setattr(config.video, key, value)
    backbone = Backbone(config).eval().requires_grad_(False)
    draw_parameters(backbone)
    for side in (video_side(backbone, 4, (32, 32)), text_side(backbone, open_tokenizer(backbone), 9)):
        write_side(side, "onnx", tmp_path / f"{side.name}.onnx")
        assert compare(side, tmp_path / f"{side.name}.onnx") < 1e-5


def test_an_export_that_differs_is_refused_and_leaves_nothing(weights: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    class Off(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, video: Tensor) -> Tensor:
            return self.module(video) + 1e-3

    write = export.write_side

    def write_wrongly(side: Side, format: str, path: Path) -> None:
        write(side._replace(module=Off(side.module)) if side.name == "video" else side, format, path)

    monkeypatch.setattr(export, "write_side", write_wrongly)
    with pytest.raises(ValueError, match="video.pt2: its embeddings differ from the backbone's by up to 0.001"):
        export_backbone(str(weights), tmp_path / "out", format="torch", max_tokens=9)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("options", "message"), [
    ({"format": "tflite"}, "format='tflite': give one of 'onnx', 'torch'"),
    ({"format": "torch", "int8": True}, "--int8 is dynamic quantisation of onnxruntime: give --format onnx"),
    ({"int8": True}, "--int8 needs --questions, an egomcq.json, and --videos"),
    ({"questions": "q.json"}, "--questions and --videos are for the loss of int8: give --int8 too"),
    ({"int8": True, "questions": "q.json", "videos": "."}, "q.json is missing: put EgoMCQ's"),
    ({"max_tokens": 1000}, "--max-tokens 1000: the text tower of .* takes 38 at most"),
    ({"max_tokens": 2}, "max_tokens=2: give "),
    ({"num_frames": 0}, "num_frames=0: give")])
def test_options_that_cant_be_are_refused(weights: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_backbone(str(weights), tmp_path / "out", **options)
    assert not os.listdir(tmp_path)


def test_the_loss_of_int8_is_not_measured_on_other_frames_than_the_backbones(tokenizer: str, toy: Path,
                                                                             tmp_path: Path) -> None:
    config = make_config(tokenizer=tokenizer)
    config.video.overrides["img_size"] = [32, 64]
    save_backbone(Backbone(config), tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="--int8 measures its loss on square frames, and .*wide.* takes 32 x 64 px"):
        export_backbone(str(tmp_path / "wide.safetensors"), str(tmp_path / "out"), int8=True, max_tokens=9,
                        questions=str(toy / "egomcq_test.json"), videos=str(toy / "videos"), chunk_seconds=8.0)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_and_weights_without_a_backbone_are_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    write_json(tmp_path / "used" / "notes.json", {})
    with pytest.raises(ValueError, match="used is not empty: give a new one, or remove it"):
        export_backbone(str(weights), tmp_path / "used", format="torch")
    torch.save({"state_dict": {"head.weight": torch.ones(2)}, "egovlpv2": {"head": {}}}, tmp_path / "head.ckpt")
    with pytest.raises(ValueError, match="head.ckpt holds no EgoVLPv2 weights .it looks like a head"):
        export_backbone(str(tmp_path / "head.ckpt"), tmp_path / "out", format="torch")
    assert sorted(os.listdir(tmp_path)) == ["head.ckpt", "used"]


def test_missing_packages_are_named_with_the_extra(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                   ) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ValueError, match=r"--format onnx needs onnxscript: `pip install 'egovlpv2\[export\]'`"):
        export_backbone(str(weights), tmp_path / "out")
    assert not os.listdir(tmp_path)

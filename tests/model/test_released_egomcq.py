"""EgoMCQ from files to scores, as the authors' data set and model compute them, on real head-camera videos."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers import REAL_DATA, ROOT
from model.test_parity import GOLDEN, fill_layout, write_released
from timm.data.constants import IMAGENET_DEFAULT_STD

from egovlpv2.cli import main as cli
from egovlpv2.data_modules.egomcq import EgoMCQDataModule

DATA = REAL_DATA
REAL, WORDS = DATA / "real_egoclip", DATA / "tokenizers" / "roberta"
here = pytest.mark.skipif(not (REAL.is_dir() and WORDS.is_dir()), reason="the real videos are not beside the project")


def theirs(path: Path, start: float, end: float, num_frames: int) -> torch.Tensor:
    """A clip of a video in one 600-s file by the released rule, (T, 3, 224, 224) in [0, 1]; written anew from its
    description: middles of segments of whole frames less one, FFmpeg's quick conversion to RGB, short side to 256,
    centre, bilinear without antialiasing.
    """
    bounds = np.linspace(int(30 * start), int(30 * end), num_frames + 1).astype(int)
    numbers = ((bounds[:-1] + bounds[1:] - 1) // 2 - 1).clip(0)
    with av.open(str(path)) as container:
        wanted = {number: frame.to_ndarray(format="rgb24") for number, frame in enumerate(container.decode(video=0))
                  if number in numbers}
    frames = torch.from_numpy(np.stack([wanted[number] for number in numbers])).permute(0, 3, 1, 2).float() / 255
    height, width = frames.shape[2:]
    scale = 256 / min(height, width)
    frames = torch.nn.functional.interpolate(frames, (int(height * scale), int(width * scale)), mode="bilinear")
    top, left = (round((side - 256) / 2) for side in frames.shape[2:])
    square = frames[:, :, top : top + 256, left : left + 256]
    return torch.nn.functional.interpolate(square, (224, 224), mode="bilinear")


@here
@pytest.mark.parametrize("num_frames", [4, 16])
def test_pictures_of_real_questions(num_frames: int) -> None:
    reader = EgoMCQDataModule(str(REAL), frame_rule="released").reader(num_frames)
    questions = json.loads((REAL / "egomcq.json").read_text())
    differences: list[torch.Tensor] = []
    for question in questions.values():
        clip = question["choices"][str(question["answer"])]
        ours = reader.evaluate(clip["video_uid"], clip["clip_start"], clip["clip_end"]).frames / 255
        path = REAL / "videos" / clip["video_uid"] / f"{int(clip['clip_start'] // 600)}.mp4"
        difference = ours - theirs(path, clip["clip_start"], clip["clip_end"], num_frames)
        differences.append((difference / torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None]).abs().mean())
    print(num_frames, float(torch.stack(differences).mean()))
    assert float(torch.stack(differences).mean()) < 0.02


@here
@pytest.mark.slow
def test_scores_of_real_questions(tmp_path: Path) -> None:
    state = fill_layout(json.loads((GOLDEN / "egovlpv2_state_layout.json").read_text()))
    weights = write_released(tmp_path / "EgoVLPv2.pth", state)
    files = ("egomcq", "model/base", "data/egoclip", "trainer/cpu", "released/egomcq")
    cli(["predict", *(f"--config={ROOT / 'conf' / f'{file}.yaml'}" for file in files),
         f"--model.init_args.weights={weights}", f"--data.init_args.root={REAL}", f"--data.init_args.tokenizer={WORDS}",
         f"--model.init_args.backbone.text.tokenizer={WORDS}", "--data.init_args.eval_num_frames=4",
         "--data.init_args.eval_batch_size=3", "--data.init_args.num_workers=0", "--trainer.precision=32-true",
         f"--trainer.logger.init_args.save_dir={tmp_path}"])
    rows = json.loads((tmp_path / "egomcq" / "predictions.json").read_text())
    golden = np.load(GOLDEN / "egomcq_end_to_end.npz")
    for name, expected in (("dual", golden["cos"]), ("fusion", golden["prob"])):
        found = np.array([row[name] for row in rows])
        within = [scores - scores.mean(1, keepdims=True) for scores in (found, expected)]
        correlation = np.corrcoef(within[0].ravel(), within[1].ravel())[0, 1]
        print(name, correlation, (found.argmax(1) == expected.argmax(1)).sum())
        assert correlation > 0.9995
        assert (found.argmax(1) == expected.argmax(1)).all()

"""Boxes that the transforms return."""

import numpy as np
import pytest

from egovlpv2.video.transforms import CropBox, EvalTransform, TrainTransform


@pytest.mark.parametrize(("height", "width"), [(256, 340), (340, 256), (1080, 1920), (50, 50)])
def test_training_boxes_keep_to_the_picture_scale_and_ratio(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    boxes = [TrainTransform(224)(height, width, rng) for _ in range(300)]
    shape = np.array([(box.height, box.width) for box in boxes])  # (300, 2)
    assert all(0 <= box.top <= height - box.height and 0 <= box.left <= width - box.width for box in boxes)
    assert 0.49 < (shape.prod(1) / (height * width)).min() and len({box.top for box in boxes}) > 5
    assert 0.74 < (shape[:, 1] / shape[:, 0]).min() and (shape[:, 1] / shape[:, 0]).max() < 1.35
    assert {box[4:6] for box in boxes} == {(224, 224)}
    assert 0.4 < np.mean([box.flip for box in boxes]) < 0.6


def test_a_picture_too_long_for_the_ratios_gives_its_middle_ratio() -> None:
    box = TrainTransform(224)(20, 2000, np.random.default_rng(0))
    assert (box.height, box.width) == (20, 27)


def test_no_flip_is_drawn_at_zero() -> None:
    rng = np.random.default_rng(0)
    assert not any(TrainTransform(64, flip=0.0)(80, 80, rng).flip for _ in range(50))


def test_evaluation_shows_the_whole_largest_square() -> None:
    assert EvalTransform(224)(256, 340) == CropBox(0, 42, 256, 256, 224, 224)
    assert EvalTransform(224)(512, 512) == CropBox(0, 0, 512, 512, 224, 224)
    assert EvalTransform(100)(200, 100) == CropBox(50, 0, 100, 100, 100, 100)

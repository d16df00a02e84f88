"""Pictures of grounding are drawn with and without frames, curves and spans."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from egovlpv2.viz.figures import png
from egovlpv2.viz.timeline import Drawing, Span, draw


@pytest.mark.parametrize("frames", [None, torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)])
@pytest.mark.parametrize("spans", [[], [Span("a", 0, 2), Span("b", 1, 3), Span("c", 5, 6)]])
def test_a_picture_is_a_png(frames: torch.Tensor | None, spans: list[Span]) -> None:
    drawing = Drawing("what did I cut", 10.0, {"start": np.linspace(0, 1, 20, dtype=np.float32)}, spans, spans[::-1])
    figure = draw([drawing], frames)
    assert figure.axes[-1].get_xlim() == (0, 10)
    bars = [patch for patch in figure.axes[-2].patches]
    assert sorted(bar.get_x() for bar in bars) == sorted(span.start for span in spans for _ in range(2))
    for i, bar in enumerate(bars):  # none hides another
        for other in bars[i + 1 :]:
            apart = bar.get_x() + bar.get_width() <= other.get_x() or other.get_x() + other.get_width() <= bar.get_x()
            assert apart or abs(bar.get_y() - other.get_y()) >= 0.8
    with Image.open(BytesIO(png(figure))) as picture:
        assert picture.format == "PNG" and picture.size == (1430, 550)

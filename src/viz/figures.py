"""Save figures as PNG and to TensorBoard, with any characters in titles and labels."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from matplotlib.figure import Figure
from matplotlib.text import Text
from torch.utils.tensorboard import SummaryWriter

DPI = 110


def png(figure: Figure) -> bytes:
    """Render a figure as the content of a PNG file."""
    file = BytesIO()
    with _any_letters(figure):
        figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def show_on_board(board: SummaryWriter, name: str, figure: Figure, step: int) -> None:
    """Write a figure to TensorBoard."""
    with _any_letters(figure):
        board.add_figure(name, figure, step)


def drawable(text: str) -> str:
    """Escape what can't be drawn: bytes of a file name that are not UTF-8 become `\\udce9`."""
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def _any_letters(figure: Figure) -> Iterator[None]:
    """Create a context for drawing a figure: `$` is literal, and missing glyphs become boxes without a warning."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(drawable(text.get_text()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ ", UserWarning)
        yield

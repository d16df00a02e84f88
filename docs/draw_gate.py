"""Draw the picture of the backbone and its gate.

python docs/draw_gate.py docs/gate.png
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

VIDEO, TEXT, CLOSED, OPEN, INK = "#d6e6f5", "#fbe3cd", "#e6e6e6", "#d8efd9", "#30343b"


def box(ax: Axes, x: float, y: float, width: float, height: float, color: str, text: str = "", size: float = 12.5,
        edge: str = INK) -> None:
    shape = "round,pad=0,rounding_size=0.12"
    ax.add_patch(FancyBboxPatch((x, y), width, height, shape, facecolor=color, edgecolor=edge, linewidth=1.3))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK, linespacing=1.35)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK, style: str = "-") -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=17, linewidth=1.7, color=color,
                                 linestyle=style, shrinkA=0, shrinkB=0, zorder=3))


def inputs(ax: Axes) -> None:
    for i in range(4):  # a stack of frames
        ax.add_patch(plt.Rectangle((0.25 + 0.11 * i, 3.02 - 0.11 * i), 1.0, 0.72, facecolor="white", edgecolor=INK))
    ax.text(0.91, 2.36, "video frames", ha="center", va="top", fontsize=12.5, color=INK)
    box(ax, 10.38, 2.7, 1.5, 0.9, "white", "“C opens\nthe jar”", 12)
    ax.text(11.13, 2.36, "text", ha="center", va="top", fontsize=12.5, color=INK)
    box(ax, 1.98, 2.45, 1.5, 1.4, VIDEO, "trunk\nlower layers\nof the ViT")
    box(ax, 8.52, 2.45, 1.5, 1.4, TEXT, "trunk\nlower layers\nof RoBERTa")
    for start, end in (((1.6, 3.15), (1.96, 3.15)), ((3.48, 3.15), (4.28, 3.15)), ((10.36, 3.15), (10.04, 3.15)),
                       ((8.52, 3.15), (7.72, 3.15))):
        arrow(ax, start, end)


def top(ax: Axes) -> None:
    box(ax, 3.92, 2.05, 4.16, 2.2, "#fbfbfb")
    ax.text(6, 4.06, "top: the upper, fused layers of both", ha="center", va="center", fontsize=12.5, color=INK)
    box(ax, 4.3, 2.45, 0.95, 1.4, VIDEO, "video\nlayer")
    box(ax, 6.75, 2.45, 0.95, 1.4, TEXT, "text\nlayer")
    green = "#2f7d3b"
    arrow(ax, (6.73, 3.5), (5.27, 3.5), green)
    arrow(ax, (5.27, 2.8), (6.73, 2.8), green)
    ax.text(6, 3.15, "gate: × α", ha="center", va="center", fontsize=13, color=green, weight="bold")
    ax.text(6, 2.25, "cross-attention, computed only with the gate open", ha="center", va="center", fontsize=10.5,
            color=green)


def outputs(ax: Axes) -> None:
    box(ax, 0.25, 4.75, 11.63, 1.45, CLOSED, edge="none")
    ax.text(0.5, 5.48, "gate closed\ndual encoder", ha="left", va="center", fontsize=13, weight="bold", color=INK)
    box(ax, 2.75, 5.1, 2.1, 0.75, VIDEO, "video embedding")
    box(ax, 7.15, 5.1, 2.1, 0.75, TEXT, "text embedding")
    box(ax, 5.35, 5.1, 1.3, 0.75, "white", "EgoNCE")
    arrow(ax, (4.87, 5.48), (5.33, 5.48))
    arrow(ax, (7.13, 5.48), (6.67, 5.48))
    ax.text(11.65, 5.48, "retrieval:\nembed each side once", ha="right", va="center", fontsize=11.5, color=INK)
    box(ax, 0.25, 0.15, 11.63, 1.45, OPEN, edge="none")
    ax.text(0.5, 0.88, "gate open\nfusion encoder", ha="left", va="center", fontsize=13, weight="bold", color=INK)
    box(ax, 2.9, 0.5, 2.75, 0.75, "white", "match or no match (VTM)")
    box(ax, 6.35, 0.5, 2.75, 0.75, "white", "masked tokens (MLM)")
    ax.text(11.65, 0.88, "encoded together:\none pass per pair", ha="right", va="center", fontsize=11.5, color=INK)
    for x, end in ((4.78, 3.8), (7.22, 8.2)):
        arrow(ax, (x, 4.27), (end, 5.08))
    for start, end in ((4.78, 4.1), (6.9, 4.9), (7.22, 7.7)):  # VTM uses both sides, MLM the text
        arrow(ax, (start, 2.03), (end, 1.27))


def main() -> None:
    figure = plt.figure(figsize=(12.13, 6.35), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 12.13), ylim=(0, 6.35))
    ax.axis("off")
    inputs(ax)
    top(ax)
    outputs(ax)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("gate.png")
    figure.savefig(out, facecolor="white")


if __name__ == "__main__":
    main()

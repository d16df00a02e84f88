"""Search a folder of videos by text and draw the moments that are found.

After `make pretrain`:

    python examples/search_my_videos.py data/toy/qfvs/videos "#C C pours water from the can into a glass" \\
        --weights runs/pretrain-tiny-toy/checkpoints/best.ckpt --chunk-seconds 20

With weights of the authors, which know real video, add `--tokenizer roberta-base`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from egovlpv2 import Index, build_index
from egovlpv2.search import Moment

FRAMES = 5  # of each moment


def draw_moments(index: Index, moments: Sequence[Moment], query: str, out: Path) -> None:
    """Draw a row of frames for each moment, the best first."""
    figure = Figure(figsize=(2.4 * FRAMES, 1.8 * len(moments) + 0.6), layout="constrained")
    figure.suptitle(f"“{query}”")
    rows = figure.subplots(len(moments), FRAMES, squeeze=False)
    for axes, moment in zip(rows, moments, strict=True):
        frames = index.frames(moment, count=FRAMES, short_side=180)  # (n, 3, H, W) uint8
        for ax, frame in zip(axes, frames, strict=True):
            ax.imshow(frame.permute(1, 2, 0).numpy())  # (H, W, 3)
            ax.set_axis_off()
        axes[0].set_title(str(moment), loc="left", fontsize=8)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Search a folder of videos by text and draw the moments found.")
    parser.add_argument("videos", help="a folder of videos")
    parser.add_argument("query", help='such as "#C C opens the jar": narrations begin with #C C')
    parser.add_argument("--weights", required=True, help=".ckpt, .safetensors or released .pth")
    parser.add_argument("--tokenizer", help="the text tower's, if the weights don't name it")
    parser.add_argument("--chunk-seconds", type=float, default=600.0, help="length of the files of a chunked video")
    parser.add_argument("--index", type=Path, default=Path("index"), help="folder to keep the embeddings in")
    parser.add_argument("--top", type=int, default=5, help="moments to draw")
    parser.add_argument("--out", type=Path, default=Path("moments.png"), help="the picture")
    args = parser.parse_args()

    # Embed the windows of all videos; those that are in the index already are skipped.
    report = build_index([args.videos], args.weights, out=args.index, tokenizer=args.tokenizer,
                         chunk_seconds=args.chunk_seconds)
    for video, reason in report.failures.items():
        print(f"left out: {video}: {reason}")

    index = Index(args.index)
    moments = index.search(args.query, top=args.top)
    for moment in moments:
        print(moment)
    draw_moments(index, moments, args.query, args.out)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()

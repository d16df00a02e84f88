"""`egovlpv2 search`: moments of one's own videos that fit a text, as a table and as a page; `Index` does it in Python.

The closed gate compares the text with all windows; the open gate may look at the best of them once more.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from egovlpv2.batch import Text
from egovlpv2.checkpoints.weights import load_backbone
from egovlpv2.command.errors import one_line
from egovlpv2.command.parser import CommandParser
from egovlpv2.features.options import fingerprint, make_folder_of, pick_device, precision_of, require_positive
from egovlpv2.features.query_encoding import warn_if_truncated
from egovlpv2.search.manifest import VideoEntry, read_manifest
from egovlpv2.search.moments import Moment, clock
from egovlpv2.search.page import Card, jpegs, write_page
from egovlpv2.search.store import EmbeddingStore
from egovlpv2.tokenization import load_fitting_tokenizer, tokenize
from egovlpv2.video.container import VideoError
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import WholePicture
from egovlpv2.video.windows import Windows


class Index:
    """Videos to search in.

    Args:
        folder: What `egovlpv2 index` wrote.
        weights: The weights that it was made with, if they have moved.
        tokenizer: The text tower's, if it has moved.
        max_tokens: Tokens of a query, if not as many as the index says.
        device: Where the model runs; CUDA where there is one.
        precision: `bf16` or `32`; `bf16` on a GPU if not given.

    Raises:
        ValueError: It is not an index, it is empty, its weights are missing, or other ones are given.
    """

    def __init__(self, folder: str | os.PathLike[str], weights: str | None = None, tokenizer: str | None = None,
                 max_tokens: int | None = None, device: str | None = None, precision: str | None = None) -> None:
        self.folder = Path(folder)
        self.catalogue = read_manifest(self.folder)
        self.rows = EmbeddingStore(self.folder)
        path = self._weights(weights)
        self.max_tokens = max_tokens or self.catalogue.max_tokens
        self.backbone = load_backbone(path, self.rows.recipe.frames).to(pick_device(device))
        self.tokenizer = load_fitting_tokenizer(tokenizer or self.catalogue.tokenizer, self.backbone.text_tower)
        self._precision = precision_of(precision, self.backbone.device)

    def _weights(self, given: str | None) -> str:
        """The path of the weights, which are those of the index."""
        path, made_with = given or self.catalogue.weights, self.rows.recipe.checkpoint
        if not Path(path).is_file():
            raise ValueError(f"{path}: the weights of {self.folder} are not there (any more): say where with --weights")
        if (here := fingerprint(path)) != made_with:
            raise ValueError(f"{self.folder} was made with the weights {made_with}, and {path} is {here}: give those, "
                             "or index the videos anew, into another folder")
        return path

    @torch.inference_mode()
    def search(self, text: str, top: int = 10, rerank: int = 0) -> list[Moment]:
        """The moments that fit a text best, the best first; no two of a video overlap.

        Args:
            text: What happens, as EgoClip's narrations say it: `#C C opens the jar`.
            top: How many at most.
            rerank: So many of the best are looked at with the gate open, and ranked by cosine plus probability of a
                match; the others follow.

        Raises:
            ValueError: The text is empty, `top` is below 1, or `rerank` below 0.
        """
        if not text.strip():
            raise ValueError("the query is empty: say what happens, such as '#C C opens the jar'")
        if top < 1 or rerank < 0:
            raise ValueError(f"top {top}, rerank {rerank}: ask for 1 moment at least, and rerank 0 or more")
        words = {name: ids.to(self.backbone.device) for name, ids in
                 tokenize(self.tokenizer, [text], self.max_tokens).items()}
        with self._precision:
            query = normalize(self.backbone.embed_text(words)[0].float(), dim=0).cpu()  # (P,)
        moments = self.rows.topk(query, max(top, rerank))
        looked_at = self._look(moments[:rerank], words)
        return [*sorted(looked_at, key=lambda moment: (moment.match is None, -moment.score)), *moments[rerank:]][:top]

    def _look(self, moments: Sequence[Moment], words: Text) -> list[Moment]:
        """The moments with what the open gate says of them; those that can't be read stay without."""
        seen = []
        for moment in tqdm(moments, desc="looking again", unit="moment", disable=len(moments) < 2, leave=False):
            try:
                video = self._window(moment).to(self.backbone.device)  # (1, T, 3, H, W)
            except VideoError:
                seen.append(moment)
                continue
            with self._precision:
                logits = self.backbone.vtm_logits(video, words)  # (1, 2)
            seen.append(replace(moment, match=float(logits[0].float().softmax(-1)[1])))
        return seen

    def _window(self, moment: Moment) -> Tensor:
        """What the model sees of a moment: (1, T, 3, H, W) uint8."""
        listed, recipe = self._listed(moment), self.rows.recipe
        windows = Windows(recipe.fps, recipe.window, recipe.stride, recipe.frames, recipe.size, listed.chunk_seconds,
                          recipe.frame_rule)
        return windows.read(listed.source(moment.video), moment.end, moment.window_index, 1)

    def frames(self, moment: Moment, count: int = 6, short_side: int = 270) -> Tensor:
        """Whole pictures of a moment, at the centres of equal parts: (n, 3, H, W) uint8.

        Raises:
            VideoError: The video is not there any more, has changed, or can't be read.
        """
        listed = self._listed(moment)
        times = uniform_times(moment.start, moment.end, count)
        return listed.source(moment.video).read(times, WholePicture(short_side), listed.chunk_seconds).frames

    def _listed(self, moment: Moment) -> VideoEntry:
        """Where a moment's video is.

        Raises:
            VideoError: It is not there any more, or has changed.
        """
        listed = self.catalogue.videos.get(moment.video)
        if listed is None:
            raise VideoError(f"{moment.video} is not in the index's list: run `egovlpv2 index` on it again")
        if listed.problem:
            raise VideoError(listed.problem)
        return listed


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    require_positive(args, "top")
    if args.rerank < 0:
        raise ValueError(f"--rerank {args.rerank}: give 0 or more")
    if args.max_tokens is not None:
        require_positive(args, "max_tokens")
    make_folder_of(args.out)
    index = Index(args.index, args.weights, args.tokenizer, args.max_tokens, args.device, args.precision)
    warn_if_truncated(index.tokenizer, "query", args.query, index.max_tokens)
    before = time.perf_counter()
    moments = index.search(args.query, args.top, args.rerank)
    told = (f"{len(index.rows):,} windows of {len(index.rows.names)} videos, {index.rows.hours:.2f} hours, searched in "
            f"{time.perf_counter() - before:.2f} s")
    cards = [_card(index, moment) for moment in tqdm(moments, desc="pictures", unit="moment", leave=False)]
    print(table(cards))
    print(told)
    write_page(args.out, args.query, cards, told)
    print(f"written: {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")


def _card(index: Index, moment: Moment) -> Card:
    """A moment with its pictures, or the reason why there are none."""
    try:
        return Card(moment, jpegs(index.frames(moment)), "")
    except VideoError as error:
        return Card(moment, [], str(error))


def table(cards: Sequence[Card]) -> str:
    """The moments as rows of text; under them, what is wrong with their videos."""
    names = [one_line(card.moment.video) for card in cards]
    width = max(map(len, ["video", *names]))
    lines = [f"rank   score  cosine   match  {'video':<{width}}  from - to"]
    for rank, ((moment, _, _), name) in enumerate(zip(cards, names, strict=True), 1):
        match = "      -" if moment.match is None else f"{moment.match:7.3f}"
        lines.append(f"{rank:4}{moment.score:8.3f}{moment.cosine:8.3f} {match}  {name:<{width}}  "
                     f"{clock(moment.start)} - {clock(moment.end)}")
    problems = dict.fromkeys(card.problem for card in cards if card.problem)
    return "\n".join([*lines, *(f"no pictures: {problem}" for problem in problems)])


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="egovlpv2 search", description="Finds moments by a text.",
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("query", help="what happens, as narrations say it: '#C C opens the jar'")
    parser.add_argument("--index", type=Path, default=Path("index"), help="folder that `egovlpv2 index` wrote")
    parser.add_argument("--top", type=int, default=10, help="moments to show")
    parser.add_argument("--rerank", type=int, default=0, metavar="K", help="look at the K best with the gate open, and "
                        "rank them by cosine plus probability of a match")
    parser.add_argument("--out", type=Path, default=Path("search.html"), help="the page")
    parser.add_argument("--weights", help="those of the index, if they have moved")
    parser.add_argument("--tokenizer", help="the text tower's, if it has moved")
    parser.add_argument("--max-tokens", type=int, help="tokens of the query; as the index says, if not given")
    parser.add_argument("--device", help="cuda or cpu; cuda where there is one")
    parser.add_argument("--precision", choices=("32", "bf16"), help="bf16 on a GPU if not given, else 32")
    return parser


if __name__ == "__main__":
    main()

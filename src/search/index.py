"""Search in an index of videos: moments that fit a text.

The closed gate compares the text with all windows; the open gate may rerank the best of them.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from egovlpv2.arguments import check_call
from egovlpv2.batch import Text, text_to
from egovlpv2.checkpoints.inference import fingerprint, open_backbone
from egovlpv2.checkpoints.weights import find_weights
from egovlpv2.device import autocast
from egovlpv2.io.files import refuse_unreadable
from egovlpv2.search.manifest import VideoEntry, read_manifest
from egovlpv2.search.moments import Moment
from egovlpv2.search.store import EmbeddingStore
from egovlpv2.tokenization import load_fitting_tokenizer, tokenize
from egovlpv2.types import Count, NonNegativeInt, NumFrames, NumTokens, Precision, Side
from egovlpv2.video.container import VideoError
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import WholePicture


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
        ValueError: An argument is out of bounds, the folder isn't an index or is empty, or its weights are missing or
            are not those given.
    """

    def __init__(self, folder: str | os.PathLike[str], weights: str | None = None, tokenizer: str | None = None,
                 max_tokens: NumTokens | None = None, device: str | None = None, precision: Precision | None = None
                 ) -> None:
        check_call(Index.__init__, locals())
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.store = EmbeddingStore(self.folder)
        path = self._weights(weights)
        self.max_tokens = self.manifest.max_tokens if max_tokens is None else max_tokens
        self.backbone = open_backbone(path, self.store.recipe.frames, device)
        self.tokenizer = load_fitting_tokenizer(tokenizer or self.manifest.tokenizer, self.backbone.text_tower)
        self._precision = autocast(precision, self.backbone.device)

    def _weights(self, given: str | None) -> str:
        """Find the weights, which must be those of the index."""
        path, made_with = str(find_weights(given or self.manifest.weights)), self.store.recipe.checkpoint
        refuse_unreadable(Path(path), "a weights file")
        if not Path(path).is_file():
            raise ValueError(f"{path}: the weights of {self.folder} are not there (any more): say where with --weights")
        # Gigabytes are hashed only if the file isn't the one that the index remembers.
        if not self.manifest.has_seen(path) and (here := fingerprint(path)) != made_with:
            raise ValueError(f"{self.folder} was made with the weights {made_with}, and {path} is {here}: give those, "
                             "or index the videos anew, into another folder")
        return path

    @torch.inference_mode()
    def search(self, text: str, top: Count = 10, rerank: NonNegativeInt = 0) -> list[Moment]:
        """Find the moments that fit a text best, the best first; no two of a video overlap.

        Args:
            text: What happens, as EgoClip's narrations say it: `#C C opens the jar`.
            top: How many at most.
            rerank: So many of the best are scored with the gate open too, and ranked by cosine plus probability of a
                match; the others follow.

        Raises:
            ValueError: The text is empty, `top` is below 1, `rerank` below 0, or above it without fusion.
        """
        check_call(Index.search, locals())
        if not text.strip():
            raise ValueError("the query is empty: say what happens, such as '#C C opens the jar'")
        if rerank:
            self.backbone.config.require_fusion(f"rerank={rerank}")
        tokens = text_to(tokenize(self.tokenizer, [text], self.max_tokens), self.backbone.device)
        with self._precision:
            query = normalize(self.backbone.embed_text(tokens)[0].float(), dim=0).cpu()  # (P,)
        moments = self.store.topk(query, max(top, rerank))
        reranked = self._match(moments[:rerank], tokens)
        return [*sorted(reranked, key=lambda moment: (moment.match is None, -moment.score)), *moments[rerank:]][:top]

    def _match(self, moments: Sequence[Moment], tokens: Text) -> list[Moment]:
        """Score moments with the gate open; those whose video can't be read stay without a match."""
        seen = []
        for moment in tqdm(moments, desc="reranking", unit="moment", disable=len(moments) < 2, leave=False):
            try:
                video = self._window(moment).to(self.backbone.device)  # (1, T, 3, H, W)
            except VideoError:
                seen.append(moment)
                continue
            with self._precision:
                logits = self.backbone.vtm_logits(video, tokens)  # (1, 2)
            seen.append(replace(moment, match=float(logits[0].float().softmax(-1)[1])))
        return seen

    def _window(self, moment: Moment) -> Tensor:
        """Read the frames that the model sees of a moment: (1, T, 3, H, W) uint8."""
        entry = self._entry(moment)
        windows = self.store.recipe.windows(entry.chunk_seconds)
        return windows.read(entry.source(moment.video), moment.end, moment.window_index, 1)

    def frames(self, moment: Moment, count: NumFrames = 6, short_side: Side = 270) -> Tensor:
        """Read whole pictures of a moment, at the centres of equal parts: (n, 3, H, W) uint8.

        Raises:
            ValueError: `count` or `short_side` is out of bounds.
            VideoError: The video is not there any more, has changed, or can't be read.
        """
        check_call(Index.frames, locals())
        entry = self._entry(moment)
        times = uniform_times(moment.start, moment.end, count)
        return entry.source(moment.video).read(times, WholePicture(short_side), entry.chunk_seconds).frames

    def _entry(self, moment: Moment) -> VideoEntry:
        """Look up a moment's video.

        Raises:
            VideoError: It is not there any more, or has changed.
        """
        entry = self.manifest.videos.get(moment.video)
        if entry is None:
            raise VideoError(f"{moment.video} is not in the index's list: run `egovlpv2 index` on it again")
        if entry.problem:
            raise VideoError(entry.problem)
        return entry

"""Features of windows: from frames to tensors of any kind.

Letters: `n` windows, `T` frames, `Q` queries, `S` tokens of a window, `D` width.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from egovlpv2.features.header import Recipe
from egovlpv2.features.query_encoding import EncodedQueries, encode_queries, fuse_with_queries
from egovlpv2.model.backbone import Backbone


class FeatureEncoder:
    """Encode the frames of windows as a recipe says.

    Args:
        backbone: In eval mode, on its device.
        recipe: Of the features.
        tokenizer: Of the text tower; needed for queries only.
        max_tokens: Tokens of a query.
        precision: A context in which the model runs.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None = None,
                 max_tokens: int = 30, precision: AbstractContextManager[None] | None = None) -> None:
        if recipe.kind not in ("dual", "projected", "unit"):
            backbone.config.require_fusion(f"the kind {recipe.kind}")
        self.backbone, self.recipe, self.tokenizer, self.max_tokens = backbone, recipe, tokenizer, max_tokens
        self.precision = precision or nullcontext()

    @property
    def num_tokens(self) -> int:
        """Tokens of a window, `S`."""
        return self.backbone.video_tower.num_tokens(self.recipe.frames)

    @torch.inference_mode()
    def encode_queries(self, texts: Sequence[str]) -> EncodedQueries | None:
        """Encode the queries of a video; None if there are none."""
        if not texts:
            return None
        assert self.tokenizer is not None
        with self.precision:
            return encode_queries(self.backbone, self.tokenizer, texts, self.max_tokens)

    @torch.inference_mode()
    def encode(self, frames: Tensor, queries: EncodedQueries | None = None) -> Tensor:
        """Encode windows: (n, T, 3, H, W) uint8 -> (n, D), (n, Q, D) of a kind per query, or (n, S, D) of a trunk."""
        with self.precision:
            return self._encode(frames.to(self.backbone.device), queries)

    def _encode(self, video: Tensor, queries: EncodedQueries | None) -> Tensor:
        kind = self.recipe.kind
        if kind == "dual":
            return self.backbone.video_features(video).float()
        if kind == "projected":
            return self.backbone.embed_video(video).float()
        if kind == "unit":
            return F.normalize(self.backbone.embed_video(video).float(), dim=-1)
        trunk = self.backbone.trunk_video(video, gate=True)  # shared by all queries
        if kind == "trunk":
            return trunk.float()
        assert queries is not None
        return fuse_with_queries(self.backbone, queries, trunk, video.shape[1], kind == "transformed")

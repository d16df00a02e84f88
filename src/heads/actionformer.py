"""ActionFormer (Zhang et al., ECCV 2022): temporal action localization by points on a transformer's pyramid.

Two variants: that of the authors for Ego4D MQ (`happyharrycn/actionformer_release`), and OpenTAD's.

Letters: `B` clips, `T` steps in time, `C` and `D` width in and inside, `P` points of all levels, `K` classes.
Times are in steps of the features.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from egovlpv2.distributed import mean_over_processes
from egovlpv2.heads.actionformer_layers import Block, ChannelNorm, ConvNorm, PredictionHead

Variant = Literal["authors", "opentad"]

_FARTHEST = 10000.0  # a boundary from its point on the coarsest level, in steps
_PRIOR = 0.01  # probability of a class before training
_FIRST_NORMALIZER = 100.0
_MOMENTUM = 0.9  # of the normaliser
_NUM_EMBEDDING_LAYERS, _NUM_STEM_BLOCKS = 2, 2


class _Design(NamedTuple):
    """Settings in which the variants differ."""

    num_levels: int
    num_full_levels: int
    input_dropout: float
    norm_eps: float  # of the embedding, the neck and the heads
    masked_twice: bool  # in the embedding and the heads


_DESIGNS: dict[Variant, _Design] = {
    "authors": _Design(8, 0, 0.0, 1e-5, False),
    "opentad": _Design(9, 3, 0.2, 1e-6, True),
}


class ActionFormerOutput(NamedTuple):
    """Predictions of ActionFormer for clips, the levels one after another, the finest first."""

    class_logits: Tensor  # (B, P, K), of independent classes without a background
    offsets: Tensor  # (B, P, 2) from the point to start and end, in steps of its level, not negative
    points: Tensor  # (P, 4): time, least and largest distance of the farther boundary, stride
    mask: Tensor  # (B, P) bool, False on padding

    def curves(self, clip: int, length: int) -> dict[str, NDArray[np.float32]]:
        """Curves (length,) of a clip by name, for pictures; probabilities of the finest level's points."""
        finest = self.class_logits[clip, :length].float().sigmoid()  # (length, K)
        return {"likeliest class": finest.amax(1).cpu().numpy()}


class ActionFormer(nn.Module):
    """ActionFormer: each point in time of each level predicts classes and the distances of start and end.

    The defaults are those of the authors for Ego4D MQ with features of EgoVLP.

    Args:
        in_dim: Width of the features.
        num_classes: Number of classes, without a background.
        dim: Width of the hidden features.
        num_levels: Number of pyramid levels, each half as long as the one before; None: 8, or 9 of OpenTAD.
        num_heads: Number of attention heads.
        window: Steps that a step attends to, itself included; 1 or less: all of them.
        num_full_levels: Number of coarsest levels on which a step attends to all steps; None: 0, or 3 of OpenTAD.
        max_steps: Length to which shorter clips are padded, see `padded_length`, and number of position embeddings,
            which are interpolated for longer clips.
        dropout: In the blocks.
        drop_path: Probability to leave out a branch of a block.
        input_dropout: Probability to leave out a channel of the features; None: 0, or 0.2 of OpenTAD.
        variant: `authors`; or `opentad`, where the embedding's and the heads' layers are masked after their activation
            too, and have another epsilon.

    Raises:
        ValueError: The settings don't fit each other.
    """

    positions: Tensor  # (D, max_steps)
    loss_normalizer: Tensor  # (), the moving average of the number of positive points, see `update_normalizer`

    def __init__(self, in_dim: int, num_classes: int = 110, dim: int = 384, num_levels: int | None = None,
                 num_heads: int = 4, window: int = 9, num_full_levels: int | None = None, max_steps: int = 1024,
                 dropout: float = 0.1, drop_path: float = 0.1, input_dropout: float | None = None,
                 variant: Variant = "authors") -> None:
        super().__init__()
        design = _DESIGNS[variant]
        num_levels = design.num_levels if num_levels is None else num_levels
        full = design.num_full_levels if num_full_levels is None else num_full_levels
        for name, size in {"in_dim": in_dim, "num_classes": num_classes, "dim": dim, "num_heads": num_heads,
                           "max_steps": max_steps}.items():
            if size < 1:
                raise ValueError(f"{name}={size}: give 1 or more")
        for name, rate in {"dropout": dropout, "drop_path": drop_path, "input_dropout": input_dropout or 0.0}.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name}={rate}: give a share from 0 to below 1")
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}")
        if not 0 <= full <= num_levels or num_levels < 1:
            raise ValueError(f"num_levels={num_levels}, num_full_levels={full}: give 1 level or more, and no more full "
                             "levels than levels")
        self.in_dim, self.num_classes, self.max_steps = in_dim, num_classes, max_steps
        self.num_levels, self.num_full_levels = num_levels, full
        local = 0 if window <= 1 else num_levels - full
        self.radii = [window // 2 if level < local else None for level in range(num_levels)]
        eps, twice = design.norm_eps, design.masked_twice
        self.input_dropout = nn.Dropout1d(design.input_dropout if input_dropout is None else input_dropout)
        self.embedding = nn.ModuleList(ConvNorm(width, dim, eps, twice)
                                       for width in (in_dim, *[dim] * (_NUM_EMBEDDING_LAYERS - 1)))
        self.stem = nn.ModuleList(Block(dim, num_heads, 1, self.radii[0], dropout, drop_path)
                                  for _ in range(_NUM_STEM_BLOCKS))
        self.branch = nn.ModuleList(Block(dim, num_heads, 2, radius, dropout, drop_path) for radius in self.radii[1:])
        self.norms = nn.ModuleList(ChannelNorm(dim, eps) for _ in range(num_levels))
        self.class_head, self.offset_head = (PredictionHead(dim, n, eps, twice) for n in (num_classes, 2))
        self.offset_scales = nn.Parameter(torch.ones(num_levels))
        self.register_buffer("positions", position_embeddings(dim, max_steps), persistent=False)
        self.register_buffer("loss_normalizer", torch.tensor(_FIRST_NORMALIZER))
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        assert self.class_head.out.bias is not None
        nn.init.constant_(self.class_head.out.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def padded_length(self, length: int) -> int:
        """Compute the length to which the authors pad clips of at most `length` steps."""
        if length <= self.max_steps:
            return self.max_steps
        multiple = max(2**level * (1 if radius is None else 2 * radius) for level, radius in enumerate(self.radii))
        return -(-length // multiple) * multiple

    def detect(self, features: Tensor, num_steps: Tensor) -> ActionFormerOutput:
        """Detect actions in clips of given lengths, padded as the authors do: (B, C, T), (B,)."""
        length = self.padded_length(features.shape[2])
        mask = torch.arange(length, device=features.device) < num_steps[:, None]  # (B, T)
        return self(F.pad(features, (0, length - features.shape[2])), mask)

    def forward(self, features: Tensor, mask: Tensor) -> ActionFormerOutput:
        """Detect actions in clips.

        Args:
            features: (B, C, T), zero-padded. Results at the end of a clip depend on whether padding follows.
            mask: (B, T) bool, False on padding.

        Raises:
            ValueError: The features are of another width, or the mask of another length.
        """
        if features.shape[1] != self.in_dim:
            raise ValueError(f"the features are {features.shape[1]} wide and the head takes {self.in_dim}")
        if mask.shape != (len(features), features.shape[2]):
            raise ValueError(f"the mask is {tuple(mask.shape)} and the features are {tuple(features.shape)}: it should "
                             "be (B, T)")
        levels, masks = self._pyramid(features, mask[:, None].bool())
        logits = [self.class_head(x, m).mT for x, m in zip(levels, masks, strict=True)]  # (B, T / 2**l, K)
        offsets = [(scale * self.offset_head(x, m).mT).relu()
                   for x, m, scale in zip(levels, masks, self.offset_scales, strict=True)]
        points = make_points([x.shape[2] for x in levels]).to(features.device)
        return ActionFormerOutput(torch.cat(logits, 1), torch.cat(offsets, 1), points, torch.cat(masks, 2)[:, 0])

    def _pyramid(self, features: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the levels (B, D, T / 2**l) and their masks (B, 1, T / 2**l)."""
        x = self.input_dropout(features)
        for layer in self.embedding:
            x = layer(x, mask)
        x = x + self._positions(x.shape[2]) * mask
        for block in self.stem:
            x = block(x, mask)
        levels, masks = [x], [mask]
        for block in self.branch:
            masks.append(masks[-1][..., ::2])
            levels.append(block(levels[-1], masks[-1]))
        return [norm(x) for norm, x in zip(self.norms, levels, strict=True)], masks

    def _positions(self, length: int) -> Tensor:
        if length <= self.max_steps:
            return self.positions[:, :length]
        return F.interpolate(self.positions[None], length, mode="linear", align_corners=False)[0]

    @torch.no_grad()
    def update_normalizer(self, num_positives: Tensor) -> Tensor:
        """Add a batch's number of positive points to the moving average that losses are divided by, and return it.

        It is part of the state dict, so that a resumed run goes on with it. Several processes add their mean. In
        evaluation it stays as it is, and the batch's own number is returned.
        """
        count = num_positives.to(self.loss_normalizer)
        if not self.training:
            return count.clamp(min=1)
        count = mean_over_processes(count).clamp(min=1)
        self.loss_normalizer.mul_(_MOMENTUM).add_(count, alpha=1 - _MOMENTUM)
        return self.loss_normalizer.clone()


def position_embeddings(dim: int, length: int) -> Tensor:
    """Compute sinusoidal position embeddings (dim, length), of length at most one."""
    channel = torch.arange(dim, dtype=torch.float64)
    rate = 10000.0 ** (-2 * (channel // 2) / dim)  # (dim,)
    angle = rate[:, None] * torch.arange(length, dtype=torch.float64)  # (dim, length)
    return (torch.where(channel[:, None] % 2 == 0, angle.sin(), angle.cos()) / math.sqrt(dim)).float()


def make_points(lengths: list[int]) -> Tensor:
    """Compute the points (P, 4) of levels of these lengths: time, range of distances, stride.

    The range is that of the distance from a point to the farther boundary of a moment that it predicts.
    """
    levels = []
    for level, length in enumerate(lengths):
        stride = float(2**level)
        least = 0.0 if level == 0 else stride
        largest = _FARTHEST if level == len(lengths) - 1 else 4 * stride
        rest = torch.tensor([least, largest, stride]).expand(length, 3)
        levels.append(torch.cat([torch.arange(length)[:, None] * stride, rest], 1))
    return torch.cat(levels)

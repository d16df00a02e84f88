"""VSGN (Zhao et al., ICCV 2021): temporal action localization on frozen features, as used for Ego4D MQ.

Letters: `B` clips, `T` steps in time, `C` and `D` width in and inside, `K` neighbours, `A` anchors, `N` classes.
Times are in steps of the features.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

ANCHOR_SCALES = (1, 10)  # lengths of a level's anchors, in that level's steps
_CENTRE_SCALE, _LENGTH_SCALE = 10.0, 5.0  # the head predicts deltas of anchors multiplied by these
_LONGEST = math.log(1000 / 16)  # largest logarithmic scaling of an anchor's length
_TOWER_LAYERS, _NORM_GROUPS = 4, 32


class VSGNOutput(NamedTuple):
    """Predictions of VSGN for clips."""

    actionness: Tensor  # (B, T) probability of an action
    startness: Tensor  # (B, T) probability of the start of an action
    endness: Tensor  # (B, T) probability of the end of an action
    segments: Tensor  # (B, A, 2) start and end
    adjusted_segments: Tensor  # (B, A, 2) after boundary adjustment
    class_logits: Tensor  # (B, A, N)
    num_frames: Tensor  # (B,) length of each clip without padding

    @property
    def scores(self) -> Tensor:
        """Class probabilities (B, A, N), for inference; class 0 is the background."""
        return self.class_logits.float().softmax(-1)

    def curves(self, clip: int, length: int) -> dict[str, NDArray[np.float32]]:
        """Curves (length,) of a clip by name, for pictures; probabilities."""
        return {name: getattr(self, name)[clip, :length].float().cpu().numpy()
                for name in ("actionness", "startness", "endness")}


class VSGN(nn.Module):
    """VSGN: cross-scale graph pyramid, anchors on all levels, boundary adjustment and supplementary scores.

    Args:
        in_dim: Width of the features.
        num_steps: Length of all clips, after padding.
        num_levels: Number of pyramid levels, each half as long as the one before.
        dim: Width of the hidden features.
        num_classes: Number of classes, class 0 being the background.
        num_neighbours: Number of neighbours of a step in the graph, itself included.

    Raises:
        ValueError: `num_steps` is not divisible by `2 ** (num_levels - 1)`.
    """

    anchors: Tensor  # (A, 2) centre and length, in steps

    def __init__(self, in_dim: int, num_steps: int = 928, num_levels: int = 5, dim: int = 256, num_classes: int = 111,
                 num_neighbours: int = 12) -> None:
        super().__init__()
        if num_steps % 2 ** (num_levels - 1):
            raise ValueError(f"num_steps={num_steps} can't be halved {num_levels - 1} times")
        self.num_steps, self.num_classes = num_steps, num_classes
        self.pyramid = GraphPyramid(in_dim, dim, num_levels, num_neighbours)
        self.class_tower, self.segment_tower = _tower(dim), _tower(dim)
        self.class_logits = _convolution(dim, len(ANCHOR_SCALES) * num_classes)
        self.segment_deltas = _convolution(dim, len(ANCHOR_SCALES) * 2)
        self.start_offset, self.end_offset = BoundaryOffset(dim), BoundaryOffset(dim)
        self.actionness, self.startness, self.endness = (
            nn.Sequential(_convolution(dim, dim), nn.ReLU(), nn.Conv1d(dim, 1, 1)) for _ in range(3))
        self.register_buffer("anchors", make_anchors(num_steps, num_levels), persistent=False)

    def forward(self, features: Tensor, num_frames: Tensor) -> VSGNOutput:
        """Detect actions in clips.

        Args:
            features: (B, C, T), zero-padded; the padding takes part in the graph, as in the authors' code.
            num_frames: (B,) length of each clip without padding.
        """
        if features.shape[2] != self.num_steps:
            raise ValueError(f"the features have {features.shape[2]} steps; pad or sample them to {self.num_steps}")
        levels = self.pyramid(features)  # (B, D, T / 2**i), the finest first
        finest = levels[0]
        logits = torch.cat([self._per_anchor(self.class_logits(self.class_tower(x))) for x in levels], 1)  # (B, A, N)
        deltas = torch.cat([self._per_anchor(self.segment_deltas(self.segment_tower(x))) for x in levels], 1)
        segments = decode(deltas, self.anchors)  # (B, A, 2)
        actionness, startness, endness = (
            head(finest)[:, 0].float().sigmoid()  # (B, T); bfloat16 rounds confident errors to 0 or 1: no gradient
            for head in (self.actionness, self.startness, self.endness))
        return VSGNOutput(actionness, startness, endness, segments, self._adjust(finest, segments), logits, num_frames)

    def _per_anchor(self, x: Tensor) -> Tensor:
        """Reshape outputs of a level to anchors: (B, scales * n, t) -> (B, t * scales, n)."""
        return x.transpose(1, 2).reshape(len(x), -1, x.shape[1] // len(ANCHOR_SCALES))

    def _adjust(self, finest: Tensor, segments: Tensor) -> Tensor:
        """Move both boundaries by offsets predicted from the finest level around them."""
        inside = segments.clamp(0, self.num_steps - 1)
        reach = (inside[..., 1] - inside[..., 0] + 1) / 8  # (B, A)
        offsets = [offset(finest, inside[..., i], reach)
                   for i, offset in enumerate((self.start_offset, self.end_offset))]
        return segments + torch.stack(offsets, dim=2)


class GraphPyramid(nn.Module):
    """Feature pyramid: graph layers downwards, transposed convolutions with lateral connections upwards.

    (B, C, T) -> (B, D, T), (B, D, T / 2), ...
    """

    def __init__(self, in_dim: int, dim: int, num_levels: int, num_neighbours: int) -> None:
        super().__init__()
        self.stem = _convolution(in_dim, dim)
        self.down = nn.ModuleList(GraphLayer(dim, num_neighbours) for _ in range(num_levels))
        self.up = nn.ModuleList(nn.ConvTranspose1d(dim, dim, 3, stride=2, padding=1, output_padding=1)
                                for _ in range(num_levels - 1))
        self.lateral = nn.ModuleList(_convolution(dim, dim) for _ in range(num_levels - 1))
        self.merge = nn.ModuleList(_convolution(dim, dim) for _ in range(num_levels))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Compute the levels, the finest first."""
        down = [self.down[0](self.stem(features).relu())]
        for layer in self.down[1:]:
            down.append(F.max_pool1d(layer(down[-1]), 2))
        levels = [self.merge[0](down.pop()).relu()]  # the coarsest
        for up, lateral, merge in zip(self.up, self.lateral, self.merge[1:], strict=True):
            levels.append(merge(up(levels[-1]).relu() + lateral(down.pop()).relu()).relu())
        return levels[::-1]


class GraphLayer(nn.Module):
    """A convolution over time plus a graph convolution over the most similar steps: (B, D, T) -> (B, D, T)."""

    def __init__(self, dim: int, num_neighbours: int) -> None:
        super().__init__()
        self.convolution = _convolution(dim, dim)
        self.graph = nn.Linear(2 * dim, dim)  # of a neighbour and the step
        self.num_neighbours = num_neighbours

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer: (B, D, T) -> (B, D, T)."""
        steps = x.transpose(1, 2)  # (B, T, D)
        of_neighbour, of_step = self.graph.weight.chunk(2, dim=1)  # (D, D) each
        messages = gather_steps(steps @ of_neighbour.T, self._nearest(steps))  # (B, T, K, D)
        # The step's own term is the same for all its neighbours, so it is added after the maximum.
        aggregated = messages.amax(2) + F.linear(steps, of_step, self.graph.bias)  # (B, T, D)
        return (self.convolution(x) + aggregated.transpose(1, 2)).relu()

    @torch.no_grad()
    def _nearest(self, steps: Tensor) -> Tensor:
        """Find the nearest steps by Euclidean distance, ties broken by index: (B, T, D) -> (B, T, K).

        In float64: in float32, the order of near ties would depend on the processor's rounding.
        """
        exact = steps.double()
        distance = torch.cdist(exact, exact)  # (B, T, T)
        # Non-negative floats sort like their bits: an index in the lowest bits breaks ties.
        count = distance.shape[2]
        unused = 2 ** count.bit_length() - 1
        keys = (distance.view(torch.int64) & ~unused) | torch.arange(count, device=steps.device)  # (B, T, T)
        return keys.topk(min(self.num_neighbours, count), dim=2, largest=False).values & unused


class BoundaryOffset(nn.Module):
    """Predict offsets of boundaries from the features before, at and after them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(dim, dim, 3)
        self.out = nn.Linear(dim, 1)

    def forward(self, finest: Tensor, boundary: Tensor, reach: Tensor) -> Tensor:
        """Predict offsets in steps: (B, D, T), (B, A), (B, A) -> (B, A)."""
        steps, last = finest.transpose(1, 2), finest.shape[2] - 1
        around = torch.stack([boundary - reach, boundary, boundary + reach], dim=2)  # (B, A, 3)
        indices = around.detach().floor().clamp(0, last).long()
        weight = self.convolution.weight  # (D, D, 3): each tap is applied once per step instead of once per anchor
        before, at, after = (gather_steps(steps @ weight[..., i].T, indices[..., i : i + 1])[:, :, 0] for i in range(3))
        assert self.convolution.bias is not None
        return self.out((before + at + after + self.convolution.bias).relu())[..., 0]


def gather_steps(steps: Tensor, positions: Tensor) -> Tensor:
    """Gather steps by index: (B, T, D), (B, n, K) -> (B, n, K, D)."""
    index = positions.flatten(1)[..., None].expand(-1, -1, steps.shape[2])  # (B, n * K, D)
    return steps.gather(1, index).unflatten(1, positions.shape[1:])


def make_anchors(num_steps: int, num_levels: int) -> Tensor:
    """Compute centre and length of all anchors (A, 2), ordered by level from the finest, by step, and by length."""
    levels = []
    for level in range(num_levels):
        stride = 2**level
        centres = (torch.arange(num_steps // stride) + 0.5) * stride  # (t,)
        lengths = torch.tensor(ANCHOR_SCALES) * float(stride)
        levels.append(torch.cartesian_prod(centres, lengths))  # (t * scales, 2)
    return torch.cat(levels)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Decode predicted deltas of anchors into segments, (B, A, 2) -> (B, A, 2). A length of n steps spans n - 1."""
    centres = anchors[:, 0] + deltas[..., 0] / _CENTRE_SCALE * anchors[:, 1]
    lengths = anchors[:, 1] * (deltas[..., 1] / _LENGTH_SCALE).clamp(max=_LONGEST).exp()
    return torch.stack([centres - (lengths - 1) / 2, centres + (lengths - 1) / 2], dim=-1)


def _convolution(in_dim: int, out_dim: int) -> nn.Conv1d:
    return nn.Conv1d(in_dim, out_dim, 3, padding=1)


def _tower(dim: int) -> nn.Sequential:
    layers = [layer for _ in range(_TOWER_LAYERS)
              for layer in (_convolution(dim, dim), nn.GroupNorm(_NORM_GROUPS, dim), nn.ReLU())]
    return nn.Sequential(*layers)

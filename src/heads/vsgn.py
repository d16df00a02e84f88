"""VSGN (Zhao et al., ICCV 2021): which actions does a clip show, and when? On frozen features, as Ego4D MQ uses it.

Letters: `B` clips, `T` steps in time, `C` and `D` width in and inside, `K` neighbours, `A` anchors, `N` classes.
Times are in steps of the features.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ANCHOR_SCALES = (1, 10)  # lengths of a level's anchors, in that level's steps
_CENTRE_SCALE, _LENGTH_SCALE = 10.0, 5.0  # how much larger than the anchor's deltas the head's outputs are
_LONGEST = math.log(1000 / 16)  # what an anchor's length can be multiplied with, as a logarithm
_TOWER_LAYERS, _NORM_GROUPS = 4, 32


class VSGNOutput(NamedTuple):
    """What VSGN says of a clip."""

    actionness: Tensor  # (B, T) probability that something happens
    startness: Tensor  # (B, T) probability that something starts
    endness: Tensor  # (B, T)
    segments: Tensor  # (B, A, 2) start and end
    adjusted_segments: Tensor  # (B, A, 2) after a look at what lies around start and end
    class_logits: Tensor  # (B, A, N)
    num_frames: Tensor  # (B,) steps that each clip really has; what lies beyond is padding

    @property
    def scores(self) -> Tensor:
        """(B, A, N) probabilities; class 0 is nothing. Training has no use for them."""
        return self.class_logits.float().softmax(-1)


class VSGN(nn.Module):
    """Cross-scale graph pyramid, anchors on all its levels, boundary adjustment and supplementary scores.

    Args:
        in_dim: Width of the features.
        num_steps: Length to which all clips are padded.
        num_levels: Of the pyramid; each is half as long as the one before.
        dim: Width inside.
        num_classes: Classes, the 0th being nothing.
        num_neighbours: How many steps, itself among them, a step of the graph hears.

    Raises:
        ValueError: `num_steps` can't be halved that often.
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
        """Args:
            features: (B, C, T), zero beyond the clip; the graph hears that padding too, as the authors' does.
            num_frames: (B,) steps that each clip really has.
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
        """(B, scales * n, t) -> (B, t * scales, n)."""
        return x.transpose(1, 2).reshape(len(x), -1, x.shape[1] // len(ANCHOR_SCALES))

    def _adjust(self, finest: Tensor, segments: Tensor) -> Tensor:
        """Moves both boundaries by what the finest level shows around them."""
        inside = segments.clamp(0, self.num_steps - 1)
        reach = (inside[..., 1] - inside[..., 0] + 1) / 8  # (B, A)
        offsets = [offset(finest, inside[..., i], reach)
                   for i, offset in enumerate((self.start_offset, self.end_offset))]
        return segments + torch.stack(offsets, dim=2)


class GraphPyramid(nn.Module):
    """Features at many scales: down by graph layers, up again with what lay on the way.

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
        down = [self.down[0](self.stem(features).relu())]
        for layer in self.down[1:]:
            down.append(F.max_pool1d(layer(down[-1]), 2))
        levels = [self.merge[0](down.pop()).relu()]  # the coarsest
        for up, lateral, merge in zip(self.up, self.lateral, self.merge[1:], strict=True):
            levels.append(merge(up(levels[-1]).relu() + lateral(down.pop()).relu()).relu())
        return levels[::-1]


class GraphLayer(nn.Module):
    """What lies around a step in time, and what the steps most alike say, wherever they are: (B, D, T) -> (B, D, T)."""

    def __init__(self, dim: int, num_neighbours: int) -> None:
        super().__init__()
        self.convolution = _convolution(dim, dim)
        self.graph = nn.Linear(2 * dim, dim)  # of a neighbour and the step
        self.num_neighbours = num_neighbours

    def forward(self, x: Tensor) -> Tensor:
        steps = x.transpose(1, 2)  # (B, T, D)
        of_neighbour, of_step = self.graph.weight.chunk(2, dim=1)  # (D, D) each
        told = gather_steps(steps @ of_neighbour.T, self._nearest(steps))  # (B, T, K, D)
        # The step's own share is the same for all its neighbours, so it can wait until the largest is found.
        heard = told.amax(2) + F.linear(steps, of_step, self.graph.bias)  # (B, T, D)
        return (self.convolution(x) + heard.transpose(1, 2)).relu()

    @torch.no_grad()
    def _nearest(self, steps: Tensor) -> Tensor:
        """Indices of the nearest steps by Euclidean distance, equally distant ones by index: (B, T, D) -> (B, T, K).

        In float64: in float32 the rounding of large sums, which differs between processors, would order near ties.
        """
        exact = steps.double()
        distance = torch.cdist(exact, exact)  # (B, T, T)
        # Positive floats order as their bits do: an index in the lowest ones decides between equal distances.
        count = distance.shape[2]
        unused = 2 ** count.bit_length() - 1
        keys = (distance.view(torch.int64) & ~unused) | torch.arange(count, device=steps.device)  # (B, T, T)
        return keys.topk(min(self.num_neighbours, count), dim=2, largest=False).values & unused


class BoundaryOffset(nn.Module):
    """How far to move boundaries, from the features before, at and after them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(dim, dim, 3)
        self.out = nn.Linear(dim, 1)

    def forward(self, finest: Tensor, boundary: Tensor, reach: Tensor) -> Tensor:
        """(B, D, T), (B, A), (B, A) -> (B, A) steps."""
        steps, last = finest.transpose(1, 2), finest.shape[2] - 1
        around = torch.stack([boundary - reach, boundary, boundary + reach], dim=2)  # (B, A, 3)
        places = around.detach().floor().clamp(0, last).long()
        weight = self.convolution.weight  # (D, D, 3): each is applied to all steps once, not once for each anchor
        before, at, after = (gather_steps(steps @ weight[..., i].T, places[..., i : i + 1])[:, :, 0] for i in range(3))
        assert self.convolution.bias is not None
        return self.out((before + at + after + self.convolution.bias).relu())[..., 0]


def gather_steps(steps: Tensor, places: Tensor) -> Tensor:
    """The steps (B, T, D) at places (B, n, K): (B, n, K, D)."""
    index = places.flatten(1)[..., None].expand(-1, -1, steps.shape[2])  # (B, n * K, D)
    return steps.gather(1, index).unflatten(1, places.shape[1:])


def make_anchors(num_steps: int, num_levels: int) -> Tensor:
    """Centre and length of all anchors (A, 2): level by level from the finest, step by step, from short to long."""
    levels = []
    for level in range(num_levels):
        stride = 2**level
        centres = (torch.arange(num_steps // stride) + 0.5) * stride  # (t,)
        lengths = torch.tensor(ANCHOR_SCALES) * float(stride)
        levels.append(torch.cartesian_prod(centres, lengths))  # (t * scales, 2)
    return torch.cat(levels)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Segments (B, A, 2) from what the head says of each anchor (B, A, 2). A length of n steps spans n - 1."""
    centres = anchors[:, 0] + deltas[..., 0] / _CENTRE_SCALE * anchors[:, 1]
    lengths = anchors[:, 1] * (deltas[..., 1] / _LENGTH_SCALE).clamp(max=_LONGEST).exp()
    return torch.stack([centres - (lengths - 1) / 2, centres + (lengths - 1) / 2], dim=-1)


def _convolution(in_dim: int, out_dim: int) -> nn.Conv1d:
    return nn.Conv1d(in_dim, out_dim, 3, padding=1)


def _tower(dim: int) -> nn.Sequential:
    layers = [layer for _ in range(_TOWER_LAYERS)
              for layer in (_convolution(dim, dim), nn.GroupNorm(_NORM_GROUPS, dim), nn.ReLU())]
    return nn.Sequential(*layers)

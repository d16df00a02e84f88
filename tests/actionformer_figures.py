"""What the figures of ActionFormer in `golden` were computed with: weights by their names, and clips by a seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from golden.fill_state import fill
from torch import Tensor

from egovlpv2.checkpoints import convert
from egovlpv2.heads import ActionFormer

GOLDEN = Path(__file__).parent / "golden"
AUTHORS, OPENTAD = "actionformer", "actionformer_opentad"


def figures(name: str) -> dict[str, Tensor]:
    """The arrays of a file of figures."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays if arrays[key].dtype.kind != "U"}


def released_state(name: str) -> dict[str, Tensor]:
    """A state dict in the layout of the authors or of OpenTAD."""
    facts = json.loads((GOLDEN / f"{name}_state_layout.json").read_text())
    state = {}
    for key, shape in facts["layout"].items():
        per_channel = len(shape) == 3 and shape[0] == shape[2] == 1 and shape[1] > 1
        filled = fill(key, (shape[1],) if per_channel else tuple(shape), 0)
        state[key] = (filled + facts["fill_offsets"].get(key, 0.0)).view(shape)
    return state | ({"rpn_head.loss_normalizer": torch.tensor(100)} if name == OPENTAD else {})


def released_head(name: str) -> ActionFormer:
    """The head with those weights, in training without dropout."""
    head = ActionFormer(64, dropout=0.0, drop_path=0.0, input_dropout=0.0,
                        variant="opentad" if name == OPENTAD else "authors")
    head.load_state_dict(convert("actionformer", released_state(name)))
    return head


def clips(*which: int, length: int = 1024) -> tuple[Tensor, Tensor]:
    """Features (B, 64, length) of the figures' clips, 1024, 700 and 1300 long, and their mask."""
    draw = np.random.RandomState(20)
    every = [torch.from_numpy(draw.standard_normal((64, n)).astype(np.float32)) for n in (1024, 700, 1300)]
    chosen = [every[i] for i in which]
    mask = torch.arange(length) < torch.tensor([[x.shape[1]] for x in chosen])
    return torch.stack([F.pad(x, (0, length - x.shape[1])) for x in chosen]), mask


def moments(arrays: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """True moments of the first two clips: segments (2, G, 2), and classes (2, G) from 1."""
    pad = torch.nn.utils.rnn.pad_sequence
    return (pad([arrays["segments0"], arrays["segments1"]], batch_first=True),
            pad([arrays["labels0"] + 1, arrays["labels1"] + 1], batch_first=True))

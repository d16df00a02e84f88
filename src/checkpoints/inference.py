"""A backbone ready for inference."""

import os
from typing import TYPE_CHECKING

from egovlpv2.checkpoints.weights import find_weights, load_backbone
from egovlpv2.device import pick_device
from egovlpv2.io.files import sha256
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import load_fitting_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_backbone(weights: str | os.PathLike[str], num_frames: int, device: str | None = None) -> Backbone:
    """Load a backbone in eval mode on a device.

    Args:
        weights: As for `load_backbone`.
        num_frames: Frames of a clip.
        device: As for `pick_device`.

    Raises:
        ValueError: There is no such device, or the weights can't be read.
    """
    picked = pick_device(device)
    return load_backbone(weights, num_frames=num_frames).to(picked)


def open_tokenizer(backbone: Backbone, name_or_path: str | None = None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a backbone, or another one that fits its text tower.

    Raises:
        ValueError: As `load_fitting_tokenizer`.
    """
    return load_fitting_tokenizer(name_or_path or backbone.config.text.tokenizer, backbone.text_tower)


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Compute the first 16 hexadecimal digits of the SHA-256 of a weights file; `path` is as for `load_backbone`."""
    return sha256(find_weights(path))[:16]

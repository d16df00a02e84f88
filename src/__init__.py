"""EgoVLPv2: a video-language model for head-camera video, with cross-modal fusion behind a learned gate."""

from importlib import import_module
from typing import Any

# Loaded on first use: torch, Lightning and transformers take seconds, `egovlpv2 --help` shall not.
_EXPORTS = {
    "Backbone": "egovlpv2.model.backbone",
    "BackboneConfig": "egovlpv2.model.config",
    "Index": "egovlpv2.search.index",
    "load_backbone": "egovlpv2.checkpoints.weights",
    "read_clip": "egovlpv2.video.decode",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'egovlpv2' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)

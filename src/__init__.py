"""EgoVLPv2: a video-language model for head-camera video, with cross-modal fusion behind a learned gate."""

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egovlpv2.checkpoints.released import convert
    from egovlpv2.checkpoints.weights import load_backbone
    from egovlpv2.features.extract import extract_features
    from egovlpv2.features.fuse import fuse_features
    from egovlpv2.model.backbone import Backbone
    from egovlpv2.model.build import build_backbone
    from egovlpv2.model.config import BackboneConfig
    from egovlpv2.search.build import build_index
    from egovlpv2.search.index import Index
    from egovlpv2.tools.ask import ask
    from egovlpv2.tools.attend import attend
    from egovlpv2.tools.detect import detect
    from egovlpv2.tools.export import export_backbone
    from egovlpv2.tools.locate import locate
    from egovlpv2.tools.summarize import summarize
    from egovlpv2.video.decode import Clip, read_clip
    from egovlpv2.video.prepare import prepare_videos

__version__ = "0.2.0"
__all__ = ["Backbone", "BackboneConfig", "Clip", "Index", "__version__", "ask", "attend", "build_backbone",
           "build_index", "convert", "detect", "export_backbone", "extract_features", "fuse_features", "load_backbone",
           "locate", "prepare_videos", "read_clip", "summarize"]

# Loaded on first use: torch, Lightning and transformers take seconds.
_MODULES = {
    "Backbone": "egovlpv2.model.backbone",
    "BackboneConfig": "egovlpv2.model.config",
    "Clip": "egovlpv2.video.decode",
    "Index": "egovlpv2.search.index",
    "ask": "egovlpv2.tools.ask",
    "attend": "egovlpv2.tools.attend",
    "build_backbone": "egovlpv2.model.build",
    "build_index": "egovlpv2.search.build",
    "convert": "egovlpv2.checkpoints.released",
    "detect": "egovlpv2.tools.detect",
    "export_backbone": "egovlpv2.tools.export",
    "extract_features": "egovlpv2.features.extract",
    "fuse_features": "egovlpv2.features.fuse",
    "load_backbone": "egovlpv2.checkpoints.weights",
    "locate": "egovlpv2.tools.locate",
    "prepare_videos": "egovlpv2.video.prepare",
    "read_clip": "egovlpv2.video.decode",
    "summarize": "egovlpv2.tools.summarize",
}
_LOCK = RLock()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'egovlpv2' has no attribute '{name}'")
    with _LOCK:  # transformers' own lazy imports fail in two threads at once
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

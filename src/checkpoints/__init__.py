"""Weights files: load, save and convert backbones and heads, always strictly."""

from egovlpv2.checkpoints.released import convert
from egovlpv2.checkpoints.weights import load_backbone, save_backbone

__all__ = ["convert", "load_backbone", "save_backbone"]

"""Heads and algorithms on frozen features: plain modules that know nothing of backbones."""

from egovlpv2.grounding.segmentation import kts
from egovlpv2.grounding.vsgn import VSGN
from egovlpv2.grounding.vslnet import VSLNet

__all__ = ["VSGN", "VSLNet", "kts"]

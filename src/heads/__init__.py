"""Heads and algorithms on frozen features: plain modules that know nothing of backbones."""

from egovlpv2.heads.kts import kts
from egovlpv2.heads.vsgn import VSGN
from egovlpv2.heads.vslnet import VSLNet

__all__ = ["VSGN", "VSLNet", "kts"]

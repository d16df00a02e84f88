"""Heads and algorithms on frozen features, independent of any backbone."""

from egovlpv2.heads.actionformer import ActionFormer
from egovlpv2.heads.kts import kts
from egovlpv2.heads.nms import soft_nms
from egovlpv2.heads.vsgn import VSGN
from egovlpv2.heads.vslnet import VSLNet

__all__ = ["ActionFormer", "VSGN", "VSLNet", "kts", "soft_nms"]

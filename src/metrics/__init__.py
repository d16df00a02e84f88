"""Metrics of the benchmarks, as pure functions of tensors and official dictionaries; its modules wrap them for
torchmetrics.
"""

from egovlpv2.metrics.ranking import charades_map, mir_map, mir_ndcg
from egovlpv2.metrics.summary import semantic_f1
from egovlpv2.metrics.temporal import moment_map, moment_recall, nlq_recall

__all__ = ["charades_map", "mir_map", "mir_ndcg", "moment_map", "moment_recall", "nlq_recall", "semantic_f1"]

"""The paper's Table 7: fusion in the backbone against stacked layers: `egovlpv2 ablation-fusion`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from egovlpv2.analysis.collect import collect_table, save_plot, without_gaps
from egovlpv2.analysis.complexity import complexity, read_model_config
from egovlpv2.io.files import finite, write_json
from egovlpv2.model.config import BackboneConfig

# The paper's Table 7: M parameters, GMACs of a pre-training instance. Its M counts the layers of 12.
PUBLISHED: dict[tuple[Literal["backbone", "stacked"], int], tuple[float, float]] = {
    ("backbone", 3): (374.5, 288.62), ("backbone", 6): (381.6, 300.16),
    ("backbone", 9): (388.7, 311.71), ("backbone", 12): (395.8, 323.26),
    ("stacked", 3): (396.9, 402.88), ("stacked", 6): (414.6, 437.90),
    ("stacked", 9): (432.4, 472.91), ("stacked", 12): (450.1, 507.92),
}
_PARTS = 4  # the toy world's model has 4 layers, and fuses as many quarters of them
_LEGEND = """
GMACs of one pre-training instance, 4 frames and 15 tokens. Nothing shared: three whole passes, the paper's way.
Video once: what no text can change of a video is computed once. Ours: so is all else that the objectives share, and
what no head reads is left out. The published parameters count the video's cross-attention of 6 layers in all rows."""
_SCORES = {"test/egomcq/ensemble/inter": "toy inter", "test/egomcq/ensemble/intra": "toy intra"}


def cost_table(config: BackboneConfig) -> pd.DataFrame:
    """Count M parameters and GMACs, a row for each kind and number of fused layers, beside the published ones."""
    rows = {}
    for (kind, layers), (parameters, macs) in PUBLISHED.items():
        cost = complexity(replace(config, fusion=kind, num_fused_layers=layers))
        rows[kind, layers] = {
            "M params": cost["parameters"] / 1e6, "published": parameters, "nothing shared": cost["gmacs"]["unshared"],
            "published GMACs": macs, "video once": cost["gmacs"]["video_once"], "ours": cost["gmacs"]["ours"]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["fusion", "M"])


def accuracies(runs: Path) -> pd.DataFrame:
    """Read EgoMCQ of the toy runs of `make ablation-fusion`; a row for each kind and `M`, as in `cost_table`.

    Raises:
        ValueError: A run is missing.
    """
    folders = {(kind, layers): runs / "fusion" / f"{kind}_{layers * _PARTS // 12}" for kind, layers in PUBLISHED}
    folders["backbone", 3] = runs / "full"
    found = collect_table(list(folders.values()), "^test/egomcq/ensemble").rename(columns=_SCORES)
    found = found.set_axis(pd.MultiIndex.from_tuples(folders, names=["fusion", "M"]))
    return found[[name for name in _SCORES.values() if name in found]]  # questions may be of one kind only


@dataclass(frozen=True)
class FusionTable:
    """Cost, and accuracy where there are runs, of both kinds of fusion.

    Args:
        table: A row for each kind and number of fused layers.
        written: Files that hold it.
    """

    table: pd.DataFrame
    written: list[Path]

    def __str__(self) -> str:
        return "\n".join([self.table.round(2).to_string(), _LEGEND, *(f"written: {path}" for path in self.written)])


def compare_fusion(*, config: str | Path = "conf/model/base.yaml", runs: str | Path | None = None,
                   out: str | Path | None = None, plot: str | Path | None = None) -> FusionTable:
    """Compare cost and accuracy of both kinds of fusion, as the paper's Table 7.

    Args:
        config: the model whose cost is counted
        runs: the folder of the toy runs; without it, only the cost
        out: write it as JSON too
        plot: draw the accuracies of --runs

    Raises:
        ValueError: The config can't be read, or a run is missing.
    """
    if plot is not None and runs is None:
        raise ValueError("--plot draws the accuracies of --runs: give those too")
    scores = None if runs is None else accuracies(Path(runs))  # first: a missing run is an error at once
    table = cost_table(read_model_config(config))
    if scores is not None:
        table = table.join(scores)
        if plot is not None:
            save_plot(scores.set_axis([f"{kind}, M={layers}" for kind, layers in scores.index]), Path(plot))
    if out is not None:
        flat = table.set_axis([f"{kind} {layers}" for kind, layers in table.index])
        write_json(Path(out), finite(without_gaps(flat)))
    return FusionTable(table, [Path(path) for path in (plot, out) if path is not None])

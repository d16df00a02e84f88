"""`egovlpv2 ablation-fusion`: the paper's Table 7 again, fusion in the backbone against layers stacked on it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from egovlpv2.analysis.collect import collect, save_plot, without_gaps
from egovlpv2.analysis.complexity import complexity, read_model_config
from egovlpv2.command.parser import CommandParser
from egovlpv2.io.files import write_report
from egovlpv2.model.config import BackboneConfig

# The paper's Table 7: M parameters, GMACs of a pre-training instance. Its M counts the layers of 12.
PUBLISHED = {
    ("backbone", 3): (374.5, 288.62), ("backbone", 6): (381.6, 300.16),
    ("backbone", 9): (388.7, 311.71), ("backbone", 12): (395.8, 323.26),
    ("stacked", 3): (396.9, 402.88), ("stacked", 6): (414.6, 437.90),
    ("stacked", 9): (432.4, 472.91), ("stacked", 12): (450.1, 507.92),
}
_PARTS = 4  # the toy world's model has 4 layers, and fuses as many quarters of them
_LEGEND = """
GMACs of one pre-training instance, 4 frames and 15 words. Nothing shared: three whole passes, the paper's way.
Video once: what no text can change of a video is computed once. Ours: so is all else that the objectives share, and
what no head reads is left out. The published parameters count the video's cross-attention of 6 layers in all rows."""
_SCORES = {"test/egomcq/ensemble/inter": "toy inter", "test/egomcq/ensemble/intra": "toy intra"}


def cost_table(config: BackboneConfig) -> pd.DataFrame:
    """A row for each kind and number of fused layers: M parameters and GMACs, published and counted here."""
    rows = {}
    for (kind, layers), (parameters, macs) in PUBLISHED.items():
        cost = complexity(replace(config, fusion=kind, num_fused_layers=layers))
        rows[kind, layers] = {
            "M params": cost["parameters"] / 1e6, "published": parameters, "nothing shared": cost["gmacs"]["unshared"],
            "published GMACs": macs, "video once": cost["gmacs"]["video_once"], "ours": cost["gmacs"]["ours"]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["fusion", "M"])


def accuracies(runs: Path) -> pd.DataFrame:
    """EgoMCQ of the toy runs that `make ablation-fusion` leaves; a row for each kind and `M`, as in `cost_table`.

    Raises:
        ValueError: A run is missing.
    """
    folders = {(kind, layers): runs / "fusion" / f"{kind}_{layers * _PARTS // 12}" for kind, layers in PUBLISHED}
    folders["backbone", 3] = runs / "full"
    found = collect(list(folders.values()), "^test/egomcq/ensemble").rename(columns=_SCORES)
    found = found.set_axis(pd.MultiIndex.from_tuples(folders, names=["fusion", "M"]))
    return found[[name for name in _SCORES.values() if name in found]]  # questions may be of one kind only


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = CommandParser("egovlpv2 ablation-fusion", description=__doc__)
    parser.add_argument("--config", default="conf/model/base.yaml",
                        help="the model whose cost is counted (default: %(default)s)")
    parser.add_argument("--runs", type=Path, help="the folder of the toy runs; without it, only the cost")
    parser.add_argument("--out", type=Path, help="write it as JSON too")
    parser.add_argument("--plot", type=Path, help="draw the accuracies of --runs")
    args = parser.parse_args(argv)
    if args.plot and not args.runs:
        raise ValueError("--plot draws the accuracies of --runs: give those too")
    scores = accuracies(args.runs) if args.runs else None  # first: a missing run is told at once
    table = cost_table(read_model_config(args.config))
    if scores is not None:
        table = table.join(scores)
        if args.plot:
            save_plot(scores.set_axis([f"{kind}, M={layers}" for kind, layers in scores.index]), args.plot)
    print(table.round(2).to_string())
    print(_LEGEND)
    if args.out:
        flat = table.set_axis([f"{kind} {layers}" for kind, layers in table.index])
        write_report(args.out, without_gaps(flat))

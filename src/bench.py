"""`egovlpv2 bench`: the hot paths against what bounds them, as ratios within one run."""

import argparse
from importlib import import_module

PARTS = {
    "reader": ("egovlpv2.video.bench", "reading a clip against bare seek and decode"),
    "step": ("egovlpv2.tasks.bench", "a pre-training step against one that shares nothing"),
    "moments": ("egovlpv2.metrics.bench", "scoring Ego4D NLQ and MQ against loops"),
    "summary": ("egovlpv2.metrics.bench_summary", "cutting and scoring a QFVS video against graph matching"),
    "retrieval": ("egovlpv2.data_modules.bench", "evaluating EPIC-Kitchens-100 at full size against a plain loop"),
}


def main(argv: list[str] | None = None) -> None:
    """`egovlpv2 bench [PART [OPTIONS]]`."""
    parts = "\n".join(f"  {name:<11}{text}" for name, (_, text) in PARTS.items())
    parser = argparse.ArgumentParser("egovlpv2 bench", description=f"Hot paths against their bounds.\n\n{parts}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, help="default: all")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the part: `egovlpv2 bench PART --help`")
    args = parser.parse_args(argv)
    for name in [args.part] if args.part else PARTS:
        import_module(PARTS[name][0]).main(args.options)

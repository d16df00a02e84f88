"""The command `egovlpv2`: fit, validate, test and predict by Lightning, and the project's own commands beside them."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from egovlpv2.command.context import CommandContext
from egovlpv2.command.signals import STOPS
from egovlpv2.command.signature import Command, read_signature

# Typed functions, whose modules are imported when they are called: torch takes seconds.
COMMANDS = {
    "configs": Command("egovlpv2.configs", "list_configs"),
    "sweep": Command("egovlpv2.analysis.sweep", "sweep", ("folder",)),
    "toy-data": Command("egovlpv2.data_modules.toy_world.write", "write_toy_world"),
    "minilm": Command("egovlpv2.checkpoints.minilm", "write_minilm"),
    "convert": Command("egovlpv2.checkpoints.conversion", "convert_checkpoint", ("source", "target")),
    "prepare": Command("egovlpv2.video.prepare", "prepare_videos", ("inputs",)),
    "extract": Command("egovlpv2.features.extract", "extract_features", ("videos",)),
    "fuse": Command("egovlpv2.features.fuse", "fuse_features", ("trunks",)),
    "naq": Command("egovlpv2.data_modules.naq", "write_naq", ("narrations", "out")),
    "llm-narrations": Command("egovlpv2.data_modules.llm_narrations", "convert_narrations", ("source", "out")),
    "show-nlq": Command("egovlpv2.tools.show", "show_predictions", ("run",),
                        "Draw one query of NLQ with the windows that a trained head finds."),
    "show-mq": Command("egovlpv2.tools.show", "show_predictions", ("run",),
                       "Draw one clip of MQ with the activities that a trained head finds."),
    "locate": Command("egovlpv2.tools.locate", "locate", ("video", "queries")),
    "detect": Command("egovlpv2.tools.detect", "detect", ("video",)),
    "summarize": Command("egovlpv2.tools.summarize", "summarize", ("video",)),
    "ask": Command("egovlpv2.tools.ask", "ask", ("video",)),
    "index": Command("egovlpv2.search.build", "build_index", ("videos",)),
    "search": Command("egovlpv2.search.results", "search", ("query",), options=(("videos", "in"), ("without", "not"))),
    "serve": Command("egovlpv2.serve.command", "serve", ("index",)),
    "attend": Command("egovlpv2.tools.attend", "attend", ("video",)),
    "export": Command("egovlpv2.tools.export", "export_backbone", ("weights", "out")),
    "collect": Command("egovlpv2.analysis.collect", "collect", ("runs",)),
    "cost": Command("egovlpv2.analysis.cost", "estimate_cost"),
    "probe-time": Command("egovlpv2.analysis.probe", "probe_time", ("runs",)),
    "ablation-fusion": Command("egovlpv2.analysis.ablation", "compare_fusion"),
    "complexity": Command("egovlpv2.analysis.complexity", "count_complexity"),
    "bench": Command("egovlpv2.bench.run", "run_benchmarks", ("part",)),
}
REMOVED = {"prompts-qfvs": "`egovlpv2 fit --config conf/qfvs.yaml` extracts and fuses its features itself"}
TRAINER_COMMANDS = {
    "fit": "Train, validating as it goes, and test the best checkpoint.",
    "validate": "Evaluate on the validation set.",
    "test": "Evaluate on the test set.",
    "predict": "Write the predictions for each row, or a challenge's submission, to predictions.json.",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    Raises:
        SystemExit: As `CommandContext` says: an error of the user, a file or the machine is one line; an error of the
            program is a traceback.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    name = args[0] if args else "--help"
    with CommandContext(f"egovlpv2 {name}" if name in COMMANDS or name in TRAINER_COMMANDS else "egovlpv2",
                        stops=() if name in TRAINER_COMMANDS else STOPS):  # Lightning handles its own
        if name in ("-h", "--help"):
            print(usage())
        elif name == "--version":
            print(import_module("egovlpv2").__version__)
        elif name in COMMANDS:
            import_module("egovlpv2.command.run").run(name, COMMANDS[name], args[1:])
        elif name in TRAINER_COMMANDS:
            import_module("egovlpv2.train_cli").run(args)
        elif name in REMOVED:
            raise ValueError(f"`{name}` was removed: {REMOVED[name]}")
        else:
            near = get_close_matches(name, [*COMMANDS, *TRAINER_COMMANDS], 1)
            raise ValueError(f"there is no command `{name}`{f', did you mean `{near[0]}`?' if near else ''} "
                             "(`egovlpv2 --help` lists them)")


def usage() -> str:
    """List all commands with their summaries."""
    own = ((name, command.summary or read_signature(command.module, command.function).summary)
           for name, command in COMMANDS.items())
    rows = [*TRAINER_COMMANDS.items(), *own]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([
        "usage: egovlpv2 COMMAND [OPTIONS]   (egovlpv2 COMMAND --help lists the options)\n",
        *(f"  {name:<{width}}{text.rstrip('.')}" for name, text in rows),
        "\nfirst run: `make pretrain` in a clone; after pip alone, begin with `egovlpv2 configs --out conf`",
    ])


if __name__ == "__main__":
    main()

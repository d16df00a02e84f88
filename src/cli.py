"""The command `egovlpv2`: fit, validate, test and predict by Lightning, and the project's own commands beside them."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from egovlpv2.command.context import Border
from egovlpv2.command.signals import STOPS

# Own commands, imported only when called; `main(argv)` of each module runs it.
COMMANDS = {
    "toy-data": ("egovlpv2.data_modules.toy_world.write", "render the embedded toy world: videos and annotations"),
    "convert": ("egovlpv2.checkpoints.conversion", "turn any checkpoint into a .safetensors of ours"),
    "prepare": ("egovlpv2.video.prepare", "re-encode raw videos into what is fast to train on"),
    "extract": ("egovlpv2.features.extract", "features of any videos, one file each"),
    "fuse": ("egovlpv2.features.fuse", "look at stored trunks with queries: features for each of them"),
    "prompts-qfvs": ("egovlpv2.data_modules.qfvs_prompts", "what QFVS asks of its videos, for fuse"),
    "show-nlq": ("egovlpv2.tools.show", "draw one query with the window that a trained head finds"),
    "show-mq": ("egovlpv2.tools.show", "draw one clip with the moments that a trained head finds"),
    "summarize": ("egovlpv2.tools.summarize", "the shots of any video that fit a query, as a video of their own"),
    "ask": ("egovlpv2.tools.ask", "the best answers to a question about any video"),
    "collect": ("egovlpv2.analysis.collect", "numbers of several runs side by side, and their mean"),
    "index": ("egovlpv2.search.build", "embed the windows of all videos of a folder, to search in"),
    "search": ("egovlpv2.search.index", "find moments by a text, as a table and as a page"),
    "attend": ("egovlpv2.tools.attend", "draw what the words of a text look at in a video"),
    "cost": ("egovlpv2.analysis.cost", "what the full pre-training run takes: GPU-hours, decoding, storage"),
    "ablation-fusion": ("egovlpv2.analysis.ablation", "the paper's Table 7: cost and accuracy of both kinds of fusion"),
    "complexity": ("egovlpv2.analysis.complexity", "parameters and GMACs of a model, by part and by objective"),
    "bench": ("egovlpv2.bench.run", "time the hot paths against their bounds, as ratios"),
}
TRAINER_COMMANDS = {
    "fit": "train, validating as it goes, and test the best checkpoint",
    "validate": "evaluate on the validation set",
    "test": "evaluate on the test set",
    "predict": "write what is found for each row, or a challenge's submission, to predictions.json",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    Raises:
        SystemExit: As `Border` says: an error of the user, a file or the machine is one line; ours are a traceback.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    name = args[0] if args else "--help"
    with Border(f"egovlpv2 {name}" if name in COMMANDS or name in TRAINER_COMMANDS else "egovlpv2",
                stops=() if name in TRAINER_COMMANDS else STOPS):  # Lightning handles its own
        if name in ("-h", "--help"):
            print(usage())
        elif name in COMMANDS:
            import_module(COMMANDS[name][0]).main(args[1:])
        elif name in TRAINER_COMMANDS:
            import_module("egovlpv2.train_cli").run(args)
        else:
            near = get_close_matches(name, [*COMMANDS, *TRAINER_COMMANDS], 1)
            raise ValueError(f"there is no command `{name}`{f', did you mean `{near[0]}`?' if near else ''} "
                             "(`egovlpv2 --help` lists them)")


def usage() -> str:
    """The list of all commands."""
    rows = [*TRAINER_COMMANDS.items(), *((name, text) for name, (_, text) in COMMANDS.items())]
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([
        "usage: egovlpv2 COMMAND [OPTIONS]   (egovlpv2 COMMAND --help lists the options)\n",
        *(f"  {name:<{width}}{text}" for name, text in rows),
        "\nfirst run: make pretrain (it prints the command that it runs)",
    ])


if __name__ == "__main__":
    main()

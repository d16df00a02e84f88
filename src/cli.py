"""The command `egovlpv2`: fit, validate, test and predict by Lightning, and the project's own commands beside them."""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module

# Own commands, imported only when called; `main(argv)` of each module runs it.
COMMANDS = {
    "toy-data": ("egovlpv2.data_modules.toy_world.write", "render the embedded toy world: videos and annotations"),
    "convert": ("egovlpv2.model.checkpoint", "turn any checkpoint into a .safetensors of ours"),
    "prepare": ("egovlpv2.video.prepare", "re-encode raw videos into what is fast to train on"),
    "extract": ("egovlpv2.features.extract", "features of any videos, one file each"),
    "fuse": ("egovlpv2.features.fuse", "look at stored trunks with queries: features for each of them"),
    "prompts-qfvs": ("egovlpv2.data_modules.qfvs_prompts", "what QFVS asks of its videos, for fuse"),
    "show-nlq": ("egovlpv2.show", "draw one query with the window that a trained head finds"),
    "show-mq": ("egovlpv2.show", "draw one clip with the moments that a trained head finds"),
    "summarize": ("egovlpv2.summarize", "the shots of any video that fit a query, as a video of their own"),
    "ask": ("egovlpv2.ask", "the best answers to a question about any video"),
    "collect": ("egovlpv2.collect", "numbers of several runs side by side, and their mean"),
    "index": ("egovlpv2.search.index", "embed the windows of all videos of a folder, to search in"),
    "search": ("egovlpv2.search.search", "find moments by a text, as a table and as a page"),
    "attend": ("egovlpv2.attend", "draw what the words of a text look at in a video"),
    "cost": ("egovlpv2.cost", "what the full pre-training run takes: GPU-hours, decoding, storage"),
    "ablation-fusion": ("egovlpv2.ablation", "the paper's Table 7: what both kinds of fusion cost, and how they do"),
    "complexity": ("egovlpv2.complexity", "parameters and GMACs of a model, by part and by objective"),
    "bench": ("egovlpv2.bench", "time the hot paths against their bounds, as ratios"),
}
_NOISE = re.compile(r"Does not validate against|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value|$")
TRAINER_COMMANDS = {
    "fit": "train, validating as it goes, and test the best checkpoint",
    "validate": "evaluate on the validation set",
    "test": "evaluate on the test set",
    "predict": "write what is found for each row, or a challenge's submission, to predictions.json",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; what a user got wrong ends in one line, the rest in a traceback."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    if args[0] not in COMMANDS and args[0] not in TRAINER_COMMANDS:
        sys.exit(f"egovlpv2: there is no command `{args[0]}`\n{usage()}")
    try:
        if args[0] in COMMANDS:
            import_module(COMMANDS[args[0]][0]).main(args[1:])
        else:
            import_module("egovlpv2.trainer_cli").run(args)
    except (ValueError, FileNotFoundError, ArgumentError) as error:
        if os.environ.get("EGOVLPV2_DEBUG"):
            raise
        message = str(error)
        if message.startswith("Caught "):  # in a worker of a loader, whose whole traceback is the message
            message = message.strip().splitlines()[-1].partition(": ")[2]
        sys.exit(f"egovlpv2 {args[0]}: error: {_without_types(message)}\n(EGOVLPV2_DEBUG=1 shows where)")


def _without_types(message: str) -> str:
    """What jsonargparse says of a wrong option, less the types it tried and the whole value that it was given."""
    if "Does not validate against" not in message:
        return message
    lines = (line.strip().removeprefix("- ") for line in message.splitlines())
    return " ".join(line for line in lines if not _NOISE.match(line))


def usage() -> str:
    rows = [*TRAINER_COMMANDS.items(), *((name, text) for name, (_, text) in COMMANDS.items())]
    return "\n".join([
        "usage: egovlpv2 COMMAND [OPTIONS]   (egovlpv2 COMMAND --help lists the options)\n",
        *(f"  {name:<14}{text}" for name, text in rows),
        "\nfirst run: make pretrain (it prints the command that it runs)",
    ])


if __name__ == "__main__":
    main()

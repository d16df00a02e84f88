"""`egovlpv2 fuse`: the fused layers, run on a trunk that `egovlpv2 extract --kind trunk` has stored.

New queries of a long video cost no decoding and no lower layers: only what they change is computed.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from egovlpv2.command.parser import CommandParser
from egovlpv2.features.files import SUFFIX, FeatureFolder, FeatureWriter
from egovlpv2.features.header import PER_QUERY
from egovlpv2.features.locks import Claim, claim, remove_left
from egovlpv2.features.options import (
    add_model_options,
    check_same_recipe,
    fingerprint,
    make_folder,
    open_backbone,
    precision_of,
    require_positive,
)
from egovlpv2.features.queries import read_queries
from egovlpv2.features.query_encoding import encode_queries, fuse_with_queries, mean_patch_tokens
from egovlpv2.model.backbone import Backbone
from egovlpv2.tokenization import load_fitting_tokenizer


@torch.inference_mode()
def fuse_file(backbone: Backbone, tokenizer: PreTrainedTokenizerBase, folder: FeatureFolder, name: str, taken: Claim,
              texts: list[str], args: argparse.Namespace, precision: AbstractContextManager[None]) -> None:
    """Writes the features of one video.

    Args:
        backbone: The model that the trunk is of.
        tokenizer: Of its text tower.
        folder: The trunks.
        name: The video.
        taken: The right to write its file.
        texts: What is asked of it.
        args: `kind`, `batch_size` and `max_tokens`.
        precision: A context in which the model runs.
    """
    recipe, count, duration = folder.recipe, folder.count(name), folder.duration(name)
    with precision:
        asked = encode_queries(backbone, tokenizer, texts, args.max_tokens)
        writer = FeatureWriter(taken.draft, replace(recipe, kind=args.kind), duration, count, asked.texts, asked.words,
                               asked.mask, keeps_unfused=True, keeps_cls=True)
        plain: list[Tensor] = []
        cls: list[Tensor] = []
        for trunk in _with_progress(folder.pieces(name, args.batch_size), count, f"{name}, {len(texts)} queries"):
            trunk = trunk.to(backbone.device).float()  # (n, S, D)
            writer.append(fuse_with_queries(backbone, asked, trunk, recipe.frames, args.kind == "transformed"))
            plain.append(mean_patch_tokens(trunk))
            cls.append(trunk[:, 0])
    writer.finish(torch.cat(plain), torch.cat(cls))
    taken.finish()


def _with_progress(pieces: Iterator[Tensor], count: int, what: str) -> Iterator[Tensor]:
    with tqdm(total=count, unit="window", desc=what, mininterval=1) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece))


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    require_positive(args, "batch_size", "max_tokens")
    folder, queries = FeatureFolder(args.trunks), read_queries(args.queries)
    recipe = folder.recipe
    if recipe.kind != "trunk":
        raise ValueError(f"{args.trunks} holds features of kind {recipe.kind}: `egovlpv2 extract --kind trunk` writes "
                         "what can be fused")
    if recipe.checkpoint != (here := fingerprint(args.weights)):
        raise ValueError(f"{args.trunks} is of the weights {recipe.checkpoint} and {args.weights} is {here}: give "
                         "those weights, or extract anew")
    names = [name for name in sorted(folder.names) if queries.get(name)]
    if not names:
        raise ValueError(f"no query is of any of the {len(folder.names)} videos in {args.trunks}: the queries are of "
                         f"{next(iter(queries), None)!r} and others, the videos are {min(folder.names)!r} and others")
    backbone = open_backbone(args, recipe.frames)
    tokenizer = load_fitting_tokenizer(args.tokenizer or backbone.config.text.tokenizer, backbone.text_tower)
    make_folder(args.out)
    remove_left(args.out)
    check_same_recipe(args.out, replace(recipe, kind=args.kind), queries)
    done, failures = 0, []
    for name in names:
        taken = claim(args.out / f"{name}{SUFFIX}")
        if taken is None:
            continue  # there, or another process's
        try:
            fuse_file(backbone, tokenizer, folder, name, taken, queries[name], args,
                      precision_of(args.precision, backbone.device))
        except BaseException as error:
            taken.release()
            if not isinstance(error, ValueError):
                raise
            failures.append(str(error))  # such as a damaged trunk: the others are fused
        else:
            done += 1
    print(f"{done} of {len(names)} videos written to {args.out}, {len(names) - done - len(failures)} were there or are "
          "another process's")
    if failures:
        raise SystemExit(f"egovlpv2 fuse: {len(failures)} of {len(names)} videos failed:\n  " + "\n  ".join(failures))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="egovlpv2 fuse", description="Looks at stored trunks with queries.",
                           formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("trunks", type=Path, help="folder that `egovlpv2 extract --kind trunk` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--queries", nargs="+", required=True, help='JSON files: {"video": ["query", ...]}')
    parser.add_argument("--kind", choices=PER_QUERY, default="transformed",
                        help="CLS with the gate open, or after the cross-modal transform too")
    parser.add_argument("--batch-size", type=int, default=32, help="windows at a time")
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    main()

"""Run the fused layers on stored trunks: `egovlpv2 fuse`.

New queries of a long video cost no decoding and no lower layers: only what they change is computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.inference import fingerprint, open_backbone, open_tokenizer
from egovlpv2.device import autocast
from egovlpv2.features.extract import ExtractionReport, prepare_folder
from egovlpv2.features.files import SUFFIX, FeatureFolder, FeatureWriter
from egovlpv2.features.header import Recipe
from egovlpv2.features.locks import Claim, claim
from egovlpv2.features.queries import read_queries
from egovlpv2.features.query_encoding import cls_states, encode_queries, fuse_with_queries, mean_patch_tokens
from egovlpv2.model.backbone import Backbone
from egovlpv2.types import Count, NumTokens, PerQueryKind, Precision


def fuse_features(trunks: str | Path, weights: str, out: str | Path, queries: Sequence[str], *,
                  kind: PerQueryKind = "transformed", batch_size: Count = 32, max_tokens: NumTokens = 30,
                  tokenizer: str | None = None, device: str | None = None, precision: Precision | None = None
                  ) -> ExtractionReport:
    """Fuse stored trunks with queries: features for each of them.

    Args:
        trunks: folder that `egovlpv2 extract --kind trunk` wrote
        weights: .ckpt, .safetensors or released .pth that the trunks are of
        out: folder to write to
        queries: JSON files: {"video": ["query", ...]}
        kind: CLS with the gate open (fused), or after the cross-modal transform too (transformed)
        batch_size: windows at a time
        max_tokens: tokens of a query; longer ones are cut
        tokenizer: the text tower's; the checkpoint's own if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument or a file doesn't allow it. Trunks that can't be read are in the report's `failures`.
        OSError: Nothing more can be written.
    """
    check_call(fuse_features, locals())
    folder, asked = FeatureFolder(trunks), read_queries(queries)
    _check_trunks(folder, weights)
    names = [name for name in sorted(folder.names) if asked.get(name)]
    if not names:
        raise ValueError(f"no query is of any of the {len(folder.names)} videos in {trunks}: the queries are of "
                         f"{next(iter(asked), None)!r} and others, the videos are {min(folder.names)!r} and others")
    backbone = open_backbone(weights, folder.recipe.frames, device)
    text_tokenizer = open_tokenizer(backbone, tokenizer)
    recipe = replace(folder.recipe, kind=kind)
    prepare_folder(Path(out), recipe, asked)
    fuser = _Fuser(backbone, text_tokenizer, max_tokens, folder, recipe, batch_size,
                   autocast(precision, backbone.device))
    return _fuse_all(fuser, names, asked, Path(out))


def _check_trunks(folder: FeatureFolder, weights: str) -> None:
    recipe = folder.recipe
    if recipe.kind != "trunk":
        raise ValueError(f"{folder.folder} holds features of kind {recipe.kind}: `egovlpv2 extract --kind trunk` "
                         "writes what can be fused")
    if recipe.checkpoint != (here := fingerprint(weights)):
        raise ValueError(f"{folder.folder} is of the weights {recipe.checkpoint} and {weights} is {here}: give "
                         "those weights, or extract anew")


def _fuse_all(fuser: "_Fuser", names: Sequence[str], queries: Mapping[str, Sequence[str]], out: Path
              ) -> ExtractionReport:
    written, failures = 0, {}
    for name in names:
        taken = claim(out / f"{name}{SUFFIX}")
        if taken is None:
            continue  # there, or another process's
        try:
            fuser.fuse(name, queries[name], taken)
        except BaseException as error:
            taken.release()
            if not isinstance(error, ValueError):
                raise
            failures[name] = str(error)  # such as a damaged trunk: the others are fused
        else:
            written += 1
    return ExtractionReport(out, written, len(names), failures)


class _Fuser:
    """Writes the features of one video at a time.

    Args:
        backbone: The model that the trunks are of.
        tokenizer: Of its text tower.
        max_tokens: Tokens of a query.
        folder: The trunks.
        recipe: Of what is written.
        batch_size: Windows at a time.
        precision: A context in which the model runs.
    """

    def __init__(self, backbone: Backbone, tokenizer: PreTrainedTokenizerBase, max_tokens: int, folder: FeatureFolder,
                 recipe: Recipe, batch_size: int, precision: AbstractContextManager[None]) -> None:
        self.backbone, self.tokenizer, self.max_tokens = backbone, tokenizer, max_tokens
        self.folder, self.recipe, self.batch_size, self.precision = folder, recipe, batch_size, precision

    @torch.inference_mode()
    def fuse(self, name: str, texts: Sequence[str], taken: Claim) -> None:
        """Write the feature file of a video.

        Args:
            name: The video.
            texts: Its queries.
            taken: The right to write its file.
        """
        folder, backbone = self.folder, self.backbone
        count, transformed = folder.count(name), self.recipe.kind == "transformed"
        with self.precision:
            asked = encode_queries(backbone, self.tokenizer, texts, self.max_tokens)
            writer = FeatureWriter(taken.draft, self.recipe, folder.duration(name), count, asked.texts, asked.words,
                                   asked.word_mask, keeps_unfused=True, keeps_cls=True)
            plain: list[Tensor] = []
            cls: list[Tensor] = []
            for trunk in _with_progress(folder.pieces(name, self.batch_size), count, f"{name}, {len(texts)} queries"):
                trunk = trunk.to(backbone.device).float()  # (n, S, D)
                writer.append(fuse_with_queries(backbone, asked, trunk, self.recipe.frames, transformed))
                plain.append(mean_patch_tokens(backbone, trunk))
                cls.append(cls_states(backbone, trunk))
        writer.finish(torch.cat(plain), torch.cat(cls))
        taken.finish()


def _with_progress(pieces: Iterator[Tensor], count: int, what: str) -> Iterator[Tensor]:
    with tqdm(total=count, unit="window", desc=what, mininterval=1) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece))

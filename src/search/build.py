"""Embed the windows of videos, to search in: `egovlpv2 index`.

The reading is that of `extract_features`: it shows its progress, goes on where it was stopped, and does new videos
only.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.inference import open_backbone
from egovlpv2.checkpoints.weights import find_weights
from egovlpv2.device import autocast
from egovlpv2.features.encoder import FeatureEncoder
from egovlpv2.features.extract import ExtractionReport, make_recipe, prepare_folder, write_features
from egovlpv2.features.files import SUFFIX
from egovlpv2.features.query_encoding import TextEmbedder
from egovlpv2.features.work_queue import VideoQueue
from egovlpv2.search.chance import update_chance
from egovlpv2.search.codes import TooFewWindows, update_codes
from egovlpv2.search.maintenance import IndexCheck, check_index
from egovlpv2.search.manifest import FILE, IndexManifest, add, changed_videos, commit, read_manifest
from egovlpv2.search.store import open_store
from egovlpv2.tokenization import load_fitting_tokenizer
from egovlpv2.types import Count, EmbeddingKind, ImageRate, NumFrames, NumTokens, NumWorkers, Precision, Seconds
from egovlpv2.video.collection import find_videos, share_of_videos
from egovlpv2.video.container import VideoError

_LONGEST = 1_000_000  # seconds of a window
_COMMIT_SECONDS = 10.0
_MAX_TOKENS = 30
log = logging.getLogger(__name__)
_FPS = 1000  # windows and strides count milliseconds: any length of theirs is a whole number


@dataclass(frozen=True)
class IndexReport(ExtractionReport):
    """The videos that were embedded, and the size of the index now.

    Args:
        windows: Of all videos in the index; 0 if it can't be searched yet.
        videos: In the index.
        hours: Of all videos in the index.
    """

    windows: int = 0
    videos: int = 0
    hours: float = 0.0

    def __str__(self) -> str:
        text = super().__str__()
        if not self.windows:
            return f"{text}\n{self.out} can't be searched yet: other processes are at work on all of its videos"
        return (f"{text}\n{self.out} now has {self.windows:,} windows of {self.videos} videos, {self.hours:.2f} hours: "
                f'`egovlpv2 search "#C C ..." --index {self.out}`')


def build_index(videos: Sequence[str] | None = None, weights: str | None = None, out: str | Path = "index", *,
                seconds: Seconds = 2.0, every: Seconds = 1.0, num_frames: NumFrames = 4,
                chunk_seconds: Seconds = 600.0, image_fps: ImageRate | None = None, share: str | None = None,
                store: EmbeddingKind | None = None, check: bool = False, batch_size: Count = 32,
                num_workers: NumWorkers = 2, max_tokens: NumTokens | None = None, tokenizer: str | None = None,
                device: str | None = None, precision: Precision | None = None) -> IndexReport | IndexCheck:
    """Make videos searchable by text: embed their windows into an index.

    What is in the index stays; only new and changed videos are embedded. Under `srun` and `torchrun` each process
    takes its share of the videos.

    Args:
        videos: videos, or folders of them; a folder of chunks 0.mp4, 1.mp4, ... is one video
        weights: .ckpt, .safetensors or released .pth
        out: the index's folder; what is in it stays
        seconds: length of a window
        every: seconds from one window's start to the next
        num_frames: frames of a window that the model sees
        chunk_seconds: length of the files of a chunked video
        image_fps: pictures a second, where a video is a folder of pictures
        share: the part of the videos to take, as 3/16, or 0/1 for all; if not given, each process of `srun` or
            `torchrun` takes its own
        store: what a search reads: the embeddings (float16), or codes of them, which are smaller (int8) or smaller and
            faster (pq), and then the best thousand embeddings; as before if not given, at first float16; may be given
            without videos
        check: read every file of the index against its hash and repair what can be; without videos
        batch_size: windows at a time
        num_workers: processes that decode
        max_tokens: tokens of a query; as the index has, or 30 for a new one, if not given
        tokenizer: the text tower's; as the index has, or the checkpoint's own, if not given
        device: cuda or cpu; cuda where there is one
        precision: bf16 on a GPU if not given, else 32

    Raises:
        ValueError: An argument, a video's path or a file doesn't allow it. Videos that can't be read are in the
            report's `failures`.
        OSError: Nothing more can be written.
    """
    check_call(build_index, locals())
    out = Path(out)
    if check:
        if videos or weights or store:
            raise ValueError("--check takes no videos, --weights or --store: check the index first, then give them")
        return check_index(out)
    if not videos:
        if store is None:
            raise ValueError(f"give videos to embed, --store or --check; {out} is the index")
        return _change_store(out, store)
    if weights is None:
        raise ValueError("give the weights to embed the videos with: --weights W")
    window, stride = _milliseconds("seconds", seconds), _milliseconds("every", every)
    sources = share_of_videos(find_videos(videos, image_fps), share)
    weights = str(find_weights(weights))  # a folder or a repository may change, the file in it is the index's
    backbone = open_backbone(weights, num_frames, device)
    recipe = make_recipe(backbone, weights, "unit", fps=float(_FPS), window=window, stride=stride,
                         num_frames=num_frames)
    prepare_folder(out, recipe, {})
    before = read_manifest(out) if (out / FILE).exists() else None
    name = tokenizer or (before.tokenizer if before else backbone.config.text.tokenizer)
    tokens = max_tokens or (before.max_tokens if before else _MAX_TOKENS)
    # A tokenizer that doesn't fit is refused now, not at the first search.
    embed = TextEmbedder(backbone, load_fitting_tokenizer(name, backbone.text_tower), tokens, precision)
    if tokens > (most := backbone.text_tower.max_tokens):
        raise ValueError(f"--max-tokens {tokens}: the text tower of {weights} takes {most} at most")
    queue = VideoQueue(sources, out, recipe.windows(chunk_seconds), batch_size)
    _fail_unreadable(queue, out, chunk_seconds)
    add(out, IndexManifest.of(weights, _place(name), int(tokens)), queue.left, float(chunk_seconds))
    encoder = FeatureEncoder(backbone, recipe, precision=autocast(precision, backbone.device))
    done = write_features(queue, encoder, num_workers, on_block=partial(_commit_sometimes, out, [time.monotonic()]))
    if commit(out).embeddings:
        update_chance(out, embed)
    try:
        update_codes(out, store)
    except TooFewWindows as error:  # other processes may add more
        log.warning("%s", error)
    return _report(out, done.written, done.total, done.failures)


def _change_store(out: Path, store: EmbeddingKind) -> IndexReport:
    """Make the codes of the embeddings that are there, or remove them."""
    read_manifest(out)  # what is no index gets no lock's file
    commit(out)
    update_codes(out, store)
    return _report(out, 0, 0, {})


def _fail_unreadable(queue: VideoQueue, out: Path, chunk_seconds: float) -> None:
    """Give up the changed videos that can't be read, so that their embeddings stay."""
    for source in changed_videos(out, queue.left, chunk_seconds):
        try:
            source.duration(chunk_seconds)
        except VideoError as error:
            queue.fail(source, error, 0.0)


def _commit_sometimes(out: Path, last: list[float]) -> None:
    """Let searches see what is finished, every ten seconds."""
    if time.monotonic() - last[0] > _COMMIT_SECONDS:
        commit(out)
        last[0] = time.monotonic()


def _report(out: Path, written: int, total: int, failures: Mapping[str, str]) -> IndexReport:
    """Open the index and describe it."""
    if not any(out.glob(f"*{SUFFIX}")):
        return IndexReport(out, written, total, failures)
    _, store = open_store(out)
    return IndexReport(out, written, total, failures, len(store), len(store.names), store.hours)


def _milliseconds(option: str, seconds: float) -> int:
    if not 1 / _FPS <= seconds <= _LONGEST:
        raise ValueError(f"--{option} {seconds:g}: give a number of seconds, from {1 / _FPS} to {_LONGEST:,}")
    return round(seconds * _FPS)


def _place(tokenizer: str) -> str:
    """A folder is found from anywhere; the name of a hub stays."""
    return str(Path(tokenizer).absolute()) if Path(tokenizer).is_dir() else str(tokenizer)

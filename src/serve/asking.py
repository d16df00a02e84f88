"""Questions about one video, for the thread of the model: where something is, and what words attend to."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from egovlpv2.checkpoints.clip_heads import read_query_head
from egovlpv2.device import autocast
from egovlpv2.features.encoder import FeatureEncoder
from egovlpv2.search.index import Index
from egovlpv2.serve.errors import printable
from egovlpv2.serve.library import Video
from egovlpv2.serve.schemas import LocatedBody, WindowBody
from egovlpv2.tools.attend import WordMaps, map_words
from egovlpv2.tools.locate import find_windows
from egovlpv2.tools.video_parts import Extraction, encoded, open_encoder, read_recipe
from egovlpv2.types import Precision
from egovlpv2.video.clock import clock
from egovlpv2.video.container import VideoError
from egovlpv2.video.sampling import uniform_times
from egovlpv2.video.transforms import EvalTransform

_BATCH = 16  # windows at a time
_DECIMALS = 4  # of curves


class ModelOptions(NamedTuple):
    """Options of running the model.

    Args:
        weights: Those of the index, if they have moved.
        tokenizer: The text tower's, if it has moved.
        max_tokens: Tokens of a query; as the index says, if not given.
        device: Where the model runs.
        precision: In which it runs.
    """

    weights: str | None = None
    tokenizer: str | None = None
    max_tokens: int | None = None
    device: str | None = None
    precision: Precision | None = None


class Locator:
    """A head of NLQ that finds the windows of a video that answer a query.

    Args:
        head: A checkpoint of `make finetune-nlq`.
        index: Whose weights are those that the head's features were extracted with.
        options: How the model is run.

    Raises:
        ValueError: The head can't be read, or is one of other weights.
    """

    def __init__(self, head: Path, index: Index, options: ModelOptions) -> None:
        self._opened = read_query_head(head)
        self._recipe = read_recipe(head, self._opened.features)
        self._options = options
        weights = options.weights or index.manifest.weights
        self._how = Extraction(weights, 0.0, _BATCH, 0, index.max_tokens, options.tokenizer or index.manifest.tokenizer,
                               options.device, options.precision)
        # A backbone is loaded for other numbers of frames only.
        self._own = None if self._fits(index) else open_encoder(head, self._opened.features, self._how, True)

    def _fits(self, index: Index) -> bool:
        of_index = index.store.recipe
        return (of_index.checkpoint, of_index.frames) == (self._recipe.checkpoint, self._recipe.frames)

    def locate(self, index: Index, video: Video, query: str, top: int, on_block: Callable[[], None]) -> LocatedBody:
        """Find the windows of a video.

        Args:
            index: As it is opened now.
            video: A video of it.
            query: Such as "where did I put the cup?".
            top: Windows at most.
            on_block: Called often; what it raises ends the work.

        Raises:
            VideoError: The video is missing, has changed or can't be read.
        """
        video.require_unchanged()
        if self._own is None and not self._fits(index):
            raise ValueError("the index was made anew, with other weights than those of the head: start the server "
                             "again")
        encoder = self._own or FeatureEncoder(index.backbone, self._recipe, index.tokenizer, index.max_tokens,
                                              autocast(self._options.precision, index.backbone.device))
        how = self._how_of(video)
        asked = query.strip().lower()  # as annotations are read
        try:
            with encoded(video.source, [asked], encoder, how, on_block) as folder:
                windows, curves = find_windows(folder, video.name, 0, self._opened, top)
                duration = folder.duration(video.name)
        except VideoError as error:
            raise VideoError(video.without_folders(str(error))) from error
        return LocatedBody(
            query=printable(query.strip()), duration=duration,
            windows=[WindowBody(start=start, end=end, score=score) for start, end, score in windows],
            curves={name: [round(value, _DECIMALS) for value in values.tolist()] for name, values in curves.items()})

    def _how_of(self, video: Video) -> Extraction:
        how = self._how
        return Extraction(how.weights, video.entry.chunk_seconds or 600.0, how.batch_size, 0, how.max_tokens,
                          how.tokenizer, how.device, how.precision)


def map_attention(index: Index, video: Video, at: float, text: str, precision: Precision | None) -> WordMaps:
    """Compute what the words of a text attend to in the window around a time.

    Args:
        index: As it is opened now.
        video: A video of it.
        at: The middle of the window, seconds.
        text: What is seen.
        precision: In which the model runs.

    Raises:
        VideoError: The video is missing, has changed or can't be read.
        ValueError: The text has no word.
    """
    video.require_unchanged()
    half = index.store.seconds / 2
    start, end = max(at - half, 0.0), min(at + half, video.duration)
    recipe = index.store.recipe
    try:
        clip = video.source.read(uniform_times(start, end, recipe.frames), EvalTransform(recipe.size),
                                 video.entry.chunk_seconds)
    except VideoError as error:
        raise VideoError(video.without_folders(str(error))) from error
    title = f"{video.title}, {clock(start)} – {clock(end)}: “{text}”"
    return map_words(index.backbone, index.tokenizer, clip, text, title, index.max_tokens, precision)


def has_fusion(index: Index) -> bool:
    """Tell if the weights of an index have fused layers."""
    config = index.backbone.config
    return config.fusion != "none" and config.num_fused_layers > 0

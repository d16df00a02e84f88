"""Features that a data module needs, extracted if they are missing."""

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from egovlpv2.arguments import check_call
from egovlpv2.checkpoints.inference import fingerprint
from egovlpv2.features.extract import ExtractionReport, extract_features
from egovlpv2.features.files import SUFFIX, FeatureFolder, read_plain
from egovlpv2.features.fuse import fuse_features
from egovlpv2.features.queries import read_queries
from egovlpv2.types import Count, FeatureKind, FrameRuleName, NumFrames, Precision, Rate
from egovlpv2.video.collection import find_videos
from egovlpv2.video.share import ALL

_WAIT = 5.0  # seconds between two looks at the work of other processes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureRecipe:
    """Recipe of the features of windows, see `egovlpv2.extract_features`.

    Args:
        kind: Kind of the features.
        fps: Frames a second in which `window` and `stride` count.
        window: Length of a window in such frames.
        stride: From one window's start to the next.
        frames: Frames of a window that the model sees.
        frame_rule: Rule that chooses these frames.

    Raises:
        ValueError: A value has another type, is out of bounds, or is not one of the choices.
    """

    kind: FeatureKind
    fps: Rate = 30.0
    window: Count = 16
    stride: Count = 16
    frames: NumFrames = 16
    frame_rule: FrameRuleName = "centre"

    def __post_init__(self) -> None:
        try:
            check_call(FeatureRecipe, vars(self))
        except ValueError as error:
            raise ValueError(f"data.init_args.recipe.{error}") from error

    def check(self, folder: FeatureFolder) -> None:
        """Refuse features of another recipe.

        Raises:
            ValueError: The recipe differs; says in which settings.
        """
        different = [f"{name} {getattr(folder.recipe, name)} there, {value} in data.init_args.recipe"
                     for name, value in asdict(self).items() if getattr(folder.recipe, name) != value]
        if different:
            raise ValueError(f"{folder.folder} holds features of another recipe ({'; '.join(different)}): give another "
                             "data.init_args.features to have them extracted anew, or set the recipe")


@dataclass(frozen=True)
class ExtractionSource:
    """Videos and weights to extract features from.

    Args:
        videos: A folder of videos.
        weights: Weights of the backbone.
        chunk_seconds: Length of a video's files, if it is a folder of them.
        image_fps: Pictures a second, if a video is a folder of pictures.
        num_workers: Processes that decode.
        device: Where the backbone runs; CUDA where there is one if not given.
        precision: Precision of the backbone.
    """

    videos: str
    weights: str
    chunk_seconds: float = 600.0
    image_fps: float | None = None
    num_workers: int = 2
    device: str | None = None
    precision: Precision | None = None

    def extract(self, out: Path, recipe: FeatureRecipe, rows: Collection[tuple[str, ...]], queries: Sequence[str] = ()
                ) -> None:
        """Extract the features that are not there yet.

        Args:
            out: The folder of the features.
            recipe: Of the features.
            rows: Names of videos, one of which is needed for each row, such as a clip and the video that it is part
                of. A row of which the folder of videos has neither is left out.
            queries: Files of queries, see `extract_features`.

        Raises:
            ValueError: The weights can't be read, or the folder holds features of others or of another recipe.
        """
        missing = self.missing(out, rows, read_queries(queries))
        gone = [path for path in (self.weights, self.videos) if not Path(path).exists()]
        if missing and gone and any(out.glob(f"*{SUFFIX}")):
            _log.warning("some clips have no features in %s, and %s is not there to extract them", out, gone[0])
        elif missing:
            sources = [source for source in find_videos([self.videos], self.image_fps) if source.name in missing]
            for source in [source for source in sources if not source.place.exists()]:
                _log.warning("%s links to a file that is missing: no features of %s", source.place, source.name)
                sources.remove(source)
            settings = asdict(recipe)
            settings["num_frames"] = settings.pop("frames")
            places = [str(source.place) for source in sources]
            self._repeat(out, [source.name for source in sources], lambda: extract_features(
                places, self.weights, out, **settings, queries=list(queries) or None, share=ALL,
                chunk_seconds=self.chunk_seconds, image_fps=self.image_fps, num_workers=max(self.num_workers, 1),
                device=self.device, precision=self.precision))

    def fuse(self, trunks: Path, out: Path, prompts: Mapping[str, Sequence[str]]) -> None:
        """Fuse stored trunks with prompts, for the videos whose features are not there yet.

        Args:
            trunks: The folder of the trunks.
            out: The folder of the features.
            prompts: By video.

        Raises:
            ValueError: The weights can't be read, or are not those of the trunks.
        """
        with TemporaryDirectory() as folder:
            file = Path(folder, "prompts.json")
            file.write_text(json.dumps(prompts), encoding="utf-8")
            there = [name for name in prompts if (trunks / f"{name}{SUFFIX}").is_file()]
            self._repeat(out, there, lambda: fuse_features(
                trunks, self.weights, out, [str(file)], device=self.device, precision=self.precision))

    def missing(self, out: Path, rows: Collection[tuple[str, ...]], queries: Mapping[str, Sequence[str]]) -> set[str]:
        """Find the videos without features from the files alone: opening a backbone takes seconds.

        Args:
            out: The folder of the features.
            rows: See `extract`.
            queries: By video, those that the features must be of; where there are any, videos without are passed over.

        Raises:
            ValueError: The features are of other weights.
        """
        self._refuse_other_weights(out)
        found: set[str] = set()
        for row in set(rows):
            names = [name for name in row if queries.get(name)] if queries else row
            if names and not any(_has_features(out / f"{name}{SUFFIX}", queries.get(name, ())) for name in names):
                found.update(names)
        return found

    def _refuse_other_weights(self, out: Path) -> None:
        first = next(iter(sorted(out.glob(f"*{SUFFIX}"))), None)
        if first is None or not Path(self.weights).is_file():
            return
        if (there := read_plain(first)[0].checkpoint) != (here := fingerprint(self.weights)):
            raise ValueError(f"{out} holds features of the weights {there}, and {self.weights} is {here}: give another "
                             "data.init_args.features to have them extracted anew, or those weights (or null, to take "
                             "the features as they are)")

    def _repeat(self, out: Path, names: Sequence[str], work: Callable[[], ExtractionReport]) -> None:
        """Work until each video has features or has failed, also those that other processes work on."""
        while names:
            report = work()
            left = [name for name in names if not (out / f"{name}{SUFFIX}").is_file() and name not in report.failures]
            if not left:
                if report.failed:
                    _log.warning("%s", report.failed)
                break
            _log.warning("waiting for another process that extracts %d videos, %s among them", len(left), left[0])
            time.sleep(_WAIT)


def _has_features(path: Path, queries: Sequence[str]) -> bool:
    return path.is_file() and not set(queries).difference(read_plain(path)[1])

"""Features that a data module needs, extracted if they are missing."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from egovlpv2.device import choose_precision, pick_device
from egovlpv2.features.extract import ExtractionReport, extract_features
from egovlpv2.features.files import SUFFIX, FeatureFolder, read_plain
from egovlpv2.features.fuse import fuse_features
from egovlpv2.features.queries import read_queries
from egovlpv2.types import FeatureKind, FrameRuleName
from egovlpv2.video.collection import find_videos

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
    """

    kind: FeatureKind
    fps: float = 30.0
    window: int = 16
    stride: int = 16
    frames: int = 16
    frame_rule: FrameRuleName = "centre"

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
    """

    videos: str
    weights: str
    chunk_seconds: float = 600.0
    image_fps: float | None = None
    num_workers: int = 2

    def extract(self, out: Path, recipe: FeatureRecipe, queries: Sequence[str] = ()) -> None:
        """Extract the features that are not there yet.

        Args:
            out: The folder of the features.
            recipe: Of the features.
            queries: Files of queries, see `extract_features`.

        Raises:
            ValueError: The weights can't be read, or the folder holds other features. Videos that can't be read are
                logged: their rows are left out, and counted.
        """
        if self._is_complete(out, queries):
            return
        if not Path(self.weights).is_file() and any(out.glob(f"*{SUFFIX}")):
            _log.warning("some videos have no features in %s, and %s is not there to extract them with", out,
                         self.weights)
            return
        _log_failures(extract_features(
            [self.videos], self.weights, out, **asdict(recipe), queries=list(queries) or None,
            chunk_seconds=self.chunk_seconds, image_fps=self.image_fps, num_workers=max(self.num_workers, 1),
            precision=choose_precision("auto", pick_device(None))))

    def fuse(self, trunks: Path, out: Path, prompts: Mapping[str, Sequence[str]]) -> None:
        """Fuse stored trunks with prompts, for the videos whose features are not there yet.

        Args:
            trunks: The folder of the trunks.
            out: The folder of the features.
            prompts: By video.

        Raises:
            ValueError: The weights can't be read, or are not those of the trunks.
        """
        if all((out / f"{name}{SUFFIX}").is_file() for name in prompts):
            return
        with TemporaryDirectory() as folder:
            file = Path(folder, "prompts.json")
            file.write_text(json.dumps(prompts), encoding="utf-8")
            _log_failures(fuse_features(trunks, self.weights, out, [str(file)],
                                        precision=choose_precision("auto", pick_device(None))))

    def _is_complete(self, out: Path, queries: Sequence[str]) -> bool:
        """Tell from the files alone if nothing is missing: opening weights takes seconds."""
        asked = read_queries(list(queries))
        for source in find_videos([self.videos], self.image_fps):
            path = out / f"{source.name}{SUFFIX}"
            if queries and not asked.get(source.name):
                continue
            if not path.is_file() or set(asked.get(source.name, ())).difference(read_plain(path)[1]):
                return False
        return True


def _log_failures(report: ExtractionReport) -> None:
    if report.failed:
        _log.warning("%s", report.failed)

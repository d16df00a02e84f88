"""Features of videos: files that say how they came about, and the command that writes them."""

from egovlpv2.features.files import FeatureFolder, Features, read_features
from egovlpv2.features.header import Recipe

__all__ = ["FeatureFolder", "Features", "Recipe", "read_features"]

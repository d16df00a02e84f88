"""Feature files, with their recipe in the header, and the commands that write them."""

from egovlpv2.features.files import FeatureFolder, Features, read_features
from egovlpv2.features.header import Recipe

__all__ = ["FeatureFolder", "Features", "Recipe", "read_features"]

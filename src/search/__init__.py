"""Search in one's own videos: embeddings of their windows on disk, and moments that fit a text."""

from egovlpv2.search.index import Index
from egovlpv2.search.moments import Moment

__all__ = ["Index", "Moment"]

"""Search in one's own videos: their windows as embeddings on disk, and moments that fit a text."""

from egovlpv2.search.search import Index, Moment

__all__ = ["Index", "Moment"]

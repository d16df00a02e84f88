"""The bodies of the API's answers."""

from typing import Literal

from pydantic import BaseModel, Field


class ErrorBody(BaseModel):
    """An error."""

    error: str = Field(description="The reason, and what to do.")


class FoundMomentBody(BaseModel):
    """A moment that was found."""

    rank: int
    video: str = Field(description="Id of the video.")
    name: str = Field(description="Name of the video.")
    start: float = Field(description="Seconds of the video.")
    end: float
    time: str = Field(description="From when to when, in words.")
    score: float = Field(description="The cosine, plus the match where there is one.")
    cosine: float
    match: float | None = Field(description="Probability that the text fits, of those that were reranked.")
    problem: str = Field(description="The reason why it can't be shown; empty if it can.")


class SearchBody(BaseModel):
    """The moments that fit a search, the best first."""

    query: str
    searched: str = Field(description="How much was searched, in words.")
    seconds: float = Field(description="Duration of the search in the model's thread.")
    notices: list[str] = Field(description="Such as that nothing fits, or that the query is cut.")
    deviation: float | None = Field(description=(
        "How far the best moment lies above what arbitrary texts reach, in standard deviations; null for examples."))
    results: list[FoundMomentBody]


class IndexBody(BaseModel):
    """The index, and what can be asked of it."""

    name: str
    videos: int
    windows: int
    hours: float
    window_seconds: float
    fusion: bool = Field(description="Whether moments can be reranked, and attention drawn.")
    locate: bool = Field(description="Whether there is a head to locate with.")
    formats: list[str] = Field(description="Of exports.")
    longest_moment: float = Field(description="Seconds that are played or cut out at most.")
    version: str


class VideoBody(BaseModel):
    """A video of the index."""

    id: str
    name: str
    duration: float = Field(description="Seconds.")
    problem: str = Field(description="The reason why it can't be shown; empty if it can.")


class VideosBody(BaseModel):
    """Videos of the index, by name."""

    total: int
    videos: list[VideoBody]


class PlaybackBody(BaseModel):
    """Media that a browser plays to show a moment."""

    url: str
    start: float = Field(description="Where the moment begins in what is played, seconds.")
    end: float
    type: Literal["video/mp4", "video/webm"]
    encoded: bool = Field(description="Whether the moment is encoded for the browser, and is all that is played.")


class WindowBody(BaseModel):
    """A window that may answer a query."""

    start: float = Field(description="Seconds of the video.")
    end: float
    score: float


class LocatedBody(BaseModel):
    """The windows of a video that may answer a query, and curves over the whole video."""

    query: str
    duration: float
    windows: list[WindowBody]
    curves: dict[str, list[float]] = Field(description="By name, each sampled uniformly over the video, 0 to 1.")

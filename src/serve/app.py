"""The web application: its API and its page."""

import asyncio
from collections.abc import Iterable
from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi import Path as InPath
from fastapi import Query as InQuery

from egovlpv2.serve.asking import has_fusion
from egovlpv2.serve.errors import Refusal, add_handlers, documented, printable
from egovlpv2.serve.exports import TYPES, ExportFormat, as_clips, as_list
from egovlpv2.serve.guard import GONE, Guard
from egovlpv2.serve.library import Video
from egovlpv2.serve.media import LONGEST
from egovlpv2.serve.ranges import file_response
from egovlpv2.serve.schemas import IndexBody, LocatedBody, PlaybackBody, SearchBody, VideoBody, VideosBody
from egovlpv2.serve.searching import Query
from egovlpv2.serve.service import Service

_LONGEST_TEXT, _LONGEST_NAME = 1000, 300  # characters
_LATEST = 1e7  # seconds, four months
_PICTURES_STAY = {"Cache-Control": "private, max-age=300"}
_PAGE = {"/": "index.html", "/docs": "docs.html"}
_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
router = APIRouter(prefix="/api")

Text = Annotated[str, InQuery(max_length=_LONGEST_TEXT, pattern=r"\S", description="What happens, such as `#C C opens "
                              "the jar`.")]
SomeText = Annotated[str | None, InQuery(max_length=_LONGEST_TEXT, pattern=r"\S")]
Time = Annotated[float, InQuery(ge=0, le=_LATEST, allow_inf_nan=False, description="Seconds of the video.")]
PatternList = Annotated[list[Annotated[str, InQuery(max_length=_LONGEST_NAME, min_length=1)]] | None, InQuery(
    max_length=50, description="Names of the videos to search in, with the wildcards `*`, `?` and `[...]`.")]


async def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


async def _gone(request: Request) -> asyncio.Event:
    found: asyncio.Event = request.scope[GONE]
    return found


Served = Annotated[Service, Depends(_service)]
Gone = Annotated[asyncio.Event, Depends(_gone)]


async def _query(q: SomeText = None,
                 like: Annotated[str | None, InQuery(max_length=_LONGEST_TEXT, pattern=r".@[0-9.]+$", description=(
                     "An example, `ID@SECONDS`: a moment of a video of the index."))] = None,
                 top: Annotated[int, InQuery(ge=1, le=200)] = 20,
                 min_score: Annotated[float | None, InQuery(ge=-1, le=1, allow_inf_nan=False, description=(
                     "The lowest cosine."))] = None,
                 videos: PatternList = None,
                 without: Annotated[str | None, InQuery(
                     alias="not", max_length=_LONGEST_TEXT, pattern=r"\S",
                     description="Moments that fit this better are left out.")] = None,
                 rerank: Annotated[int, InQuery(ge=0, le=100, description=(
                     "So many of the best are looked at with the gate open."))] = 0) -> Query:
    if rerank and q is None:
        raise Refusal(422, "rerank needs a text, q: the open gate compares moments with words")
    return Query(q, like, top, rerank, min_score, videos, without)


Asked = Annotated[Query, Depends(_query)]


async def _video(service: Served, gone: Gone, id: Annotated[str, InPath(pattern="^[0-9a-f]{16}$", description=(
        "Of the video, as `/api/videos` and searches give it."))]) -> Video:
    return await service.video(id, gone)


Chosen = Annotated[Video, Depends(_video)]


@router.get("/search", responses=documented(404))
async def search(service: Served, gone: Gone, query: Asked) -> SearchBody:
    """Find the moments that fit a text, an example or both best, the best first; no two of a video overlap."""
    found = await service.search(query, gone)
    return await asyncio.to_thread(found.body)


@router.get("/index", responses=documented())
async def index(service: Served, gone: Gone) -> IndexBody:
    """Describe the index, and what can be asked of it."""
    await service.refresh(gone)
    opened = service.library.index
    return IndexBody(name=printable(service.library.folder.resolve().name), videos=len(service.library.videos),
                     windows=len(opened.store), hours=opened.store.hours, window_seconds=opened.store.seconds,
                     fusion=has_fusion(opened), locate=service.locator is not None, formats=list(TYPES),
                     longest_moment=LONGEST, version=version("egovlpv2"))


@router.get("/videos", responses=documented())
async def videos(service: Served, gone: Gone, limit: Annotated[int, InQuery(ge=1, le=1000)] = 1000,
                 offset: Annotated[int, InQuery(ge=0, le=2**31)] = 0) -> VideosBody:
    """List the videos of the index by name."""
    await service.refresh(gone)
    there = service.library.videos
    return await asyncio.to_thread(lambda: VideosBody(total=len(there), videos=[
        VideoBody(id=video.id, name=video.title, duration=video.duration, problem=printable(video.problem))
        for video in there[offset:offset + limit]]))


@router.get("/videos/{id}/playback", responses=documented(404, 410))
async def playback(service: Served, gone: Gone, video: Chosen, start: Time, end: Time, encode: bool = False
                   ) -> PlaybackBody:
    """Tell what to play, and from when to when, to show a moment."""
    return await service.playback(video, *video.clamp(start, end, LONGEST), encode, gone)


@router.get("/videos/{id}/play", response_class=Response, responses=documented(404, 410, 416) | {
    200: {"content": {"video/mp4": {}, "video/webm": {}}, "description": "A video."},
    206: {"content": {"video/mp4": {}, "video/webm": {}}, "description": "The part that the Range header asks for."}})
async def play(request: Request, service: Served, gone: Gone, video: Chosen, start: Time, end: Time,
               encode: Annotated[bool, InQuery(description="Encode the moment though browsers play the file.")] = False
               ) -> Response:
    """Send the file that shows a moment, if browsers play it, else the moment as H.264. `playback` tells which."""
    start, end = video.clamp(start, end, LONGEST)
    found = None if encode else await service.playable(video, start, end, gone)
    if found is not None:
        return file_response(request, found.file, found.type)
    await asyncio.to_thread(video.require_unchanged)
    return file_response(request, await service.clip(video, start, end, gone), "video/mp4")


@router.get("/videos/{id}/frame", response_class=Response, responses=documented(404, 410) | {
    200: {"content": {"image/jpeg": {}}, "description": "A picture."}})
async def frame(service: Served, gone: Gone, video: Chosen, at: Time,
                height: Annotated[int, InQuery(ge=16, le=720, description="The short side, pixels.")] = 270
                ) -> Response:
    """Send the picture that a video shows at a time."""
    picture = await service.picture(video, video.require_time(at), height, gone)
    return Response(picture, media_type="image/jpeg", headers=_PICTURES_STAY)


@router.get("/videos/{id}/locate", responses=documented(404, 409, 410))
async def locate(service: Served, gone: Gone, video: Chosen, q: Text, top: Annotated[int, InQuery(ge=1, le=50)] = 5
                 ) -> LocatedBody:
    """Find the windows of a video that answer a question, with a head of NLQ."""
    return await service.locate(video, q, top, gone)


@router.get("/videos/{id}/attention", response_class=Response, responses=documented(404, 409, 410) | {
    200: {"content": {"image/png": {}}, "description": "A picture."}})
async def attention(service: Served, gone: Gone, video: Chosen, at: Time, q: Text) -> Response:
    """Draw what the words of a text attend to in the window around a time."""
    picture = await service.attention(video, video.require_time(at), q, gone)
    return Response(picture, media_type="image/png", headers=_PICTURES_STAY)


@router.get("/export", response_class=Response, responses=documented(404, 410) | {
    200: {"content": {kind: {} for kind in TYPES.values()}, "description": "A file; subtitles of several videos and "
          "clips are a zip archive."}})
async def export(service: Served, gone: Gone, query: Asked, format: ExportFormat) -> Response:
    """Send what a search finds as a file for tables, players and editors, or as an archive of clips."""
    found = await service.search(query, gone)
    if format == "zip":
        return as_clips(found, lambda video, start, end: service.clip(video, start, end, gone))
    return await service.readers.run(lambda _: as_list(found, format), gone)


def make_app(service: Service, hosts: Iterable[str], any_address: bool = False, token: str = "") -> FastAPI:
    """Make the application.

    Args:
        service: What it serves.
        hosts: As for `Guard`.
        any_address: As for `Guard`.
        token: As for `Guard`.
    """
    app = FastAPI(title="egovlpv2 serve", version=version("egovlpv2"), docs_url=None, redoc_url=None,
                  description="Search in an index of videos. Every error is a JSON object with the key `error`.")
    app.state.service = service
    app.include_router(router)
    for path, name in _page_files().items():
        app.add_api_route(path, _sender(name), include_in_schema=False, response_class=Response)
    add_handlers(app)
    app.add_middleware(Guard, hosts=frozenset(hosts), any_address=any_address, token=token)
    return app


def _page_files() -> dict[str, str]:
    """The files of the page by address."""
    names = sorted(entry.name for entry in files("egovlpv2.serve").joinpath("page").iterdir()
                   if entry.name.endswith(tuple(_MEDIA)))
    return {**_PAGE, **{f"/page/{name}": name for name in names if name not in _PAGE.values()}}


def _sender(name: str) -> Any:
    content = files("egovlpv2.serve").joinpath("page").joinpath(name).read_bytes()
    kind = _MEDIA[f".{name.rpartition('.')[2]}"]

    async def send() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send

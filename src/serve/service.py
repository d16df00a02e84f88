"""State of the server: the index, queues of work, and caches of bounded size."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

from egovlpv2.search.index import Index
from egovlpv2.serve.asking import Locator, ModelOptions, has_fusion, map_attention
from egovlpv2.serve.caches import ByteCache, FileCache
from egovlpv2.serve.errors import Refusal
from egovlpv2.serve.library import Library, Video
from egovlpv2.serve.media import LONGEST, Playable, encode_moment, find_playable, read_picture
from egovlpv2.serve.schemas import LocatedBody, PlaybackBody
from egovlpv2.serve.searching import Found, Query, find_moments
from egovlpv2.serve.workers import Job, WorkQueue

_PICTURE_BYTES = 32 << 20  # of the cache in memory
_CLIP_BYTES = 256 << 20  # of the cache on disk
_WAITING_FOR_MODEL, _WAITING_PICTURES, _WAITING_CLIPS = 64, 512, 32
_READERS = 2  # threads

T = TypeVar("T")


class Service:
    """An opened index with the threads that work on it.

    Args:
        folder: Of the index.
        options: How the model is run.
        head: A checkpoint of `make finetune-nlq`, to locate with.

    Raises:
        ValueError: The index, its weights or the head can't be read.
    """

    def __init__(self, folder: Path, options: ModelOptions | None = None, head: Path | None = None) -> None:
        self.options = options or ModelOptions()
        self.library = Library(folder, lambda: Index(folder, *self.options))
        self.locator = None if head is None else Locator(head, self.library.index, self.options)
        find_moments(self.library, Query("#C C looks around", top=1))  # the first one takes longer
        self.model = WorkQueue("model", 1, _WAITING_FOR_MODEL)
        self.readers = WorkQueue("reader", _READERS, _WAITING_PICTURES)
        self.encoders = WorkQueue("encoder", 1, _WAITING_CLIPS)
        self.pictures = ByteCache(_PICTURE_BYTES)
        self.clips = FileCache(_CLIP_BYTES)

    def close(self) -> None:
        """End the threads and delete the encoded moments."""
        for queue in (self.model, self.readers, self.encoders):
            queue.close()
        self.clips.close()

    async def in_model(self, work: Callable[[Job[T]], T], gone: asyncio.Event, is_short: bool = True) -> T:
        """Do work in the thread of the model, with the index as it is on disk now."""
        def fresh(job: Job[T]) -> T:
            if self.library.may_have_changed():
                self.library.refresh()
            return work(job)

        return await self.model.run(fresh, gone, is_short=is_short)

    async def refresh(self, gone: asyncio.Event) -> None:
        """Open the index anew if it has changed on disk."""
        if self.library.may_have_changed():
            await self.model.run(lambda _: self.library.refresh(), gone, key="refresh")

    async def video(self, given: str, gone: asyncio.Event) -> Video:
        """Look up a video of the index as it is on disk now."""
        await self.refresh(gone)
        return self.library.video(given)

    async def search(self, query: Query, gone: asyncio.Event) -> Found:
        """Search the index."""
        def work(job: Job[Found]) -> Found:
            return find_moments(self.library, query, job.check)

        return await self.in_model(work, gone, is_short=not query.rerank)

    async def locate(self, video: Video, query: str, top: int, gone: asyncio.Event) -> LocatedBody:
        """Find the windows of a video that answer a query; searches pass meanwhile.

        Raises:
            Refusal: There is no head.
        """
        locator = self.locator
        if locator is None:
            raise Refusal(409, "there is no head to locate with: start the server with --head, a checkpoint of `make "
                               "finetune-nlq`")

        def work(job: Job[LocatedBody]) -> LocatedBody:
            def on_block() -> None:
                self.model.let_short_pass()
                job.check()

            return locator.locate(self.library.index, video, query, top, on_block)

        return await self.in_model(work, gone, is_short=False)

    async def attention(self, video: Video, at: float, text: str, gone: asyncio.Event) -> bytes:
        """Draw the attention of the words of a text around a time, as a PNG file.

        Raises:
            Refusal: The weights have no fused layers.
        """
        if not has_fusion(self.library.index):
            raise Refusal(409, "the weights of this index have no fused layer: there is no attention to draw")
        key = ("attention", self.library.index.store.recipe.checkpoint, video, at, text)

        async def draw() -> bytes:
            maps = await self.in_model(
                lambda _: map_attention(self.library.index, video, at, text, self.options.precision), gone)
            return await self.readers.run(lambda _: maps.png(), gone)

        return await self._kept(video, key, draw)

    async def picture(self, video: Video, at: float, short_side: int, gone: asyncio.Event) -> bytes:
        """Read the picture that a video shows at a time, as a JPEG file."""
        key = ("picture", video, round(at, 3), short_side)
        return await self._kept(video, key, lambda: self.readers.run(
            lambda _: read_picture(video, at, short_side), gone, key))

    async def _kept(self, video: Video, key: Hashable, make: Callable[[], Awaitable[bytes]]) -> bytes:
        content = self.pictures.get(key)
        if content is not None:
            await asyncio.to_thread(video.require_unchanged)  # a video that is gone is no longer shown
            return content
        content = await make()
        self.pictures.put(key, content)
        return content

    async def playable(self, video: Video, start: float, end: float, gone: asyncio.Event) -> Playable | None:
        """Find the file that shows a moment, if browsers play it.

        Raises:
            VideoError: The video is missing, has changed or can't be read.
        """
        def work(_: Job[Playable | None]) -> Playable | None:
            video.require_unchanged()
            return find_playable(video, start, end)

        return await self.readers.run(work, gone)

    async def playback(self, video: Video, start: float, end: float, encode: bool, gone: asyncio.Event) -> PlaybackBody:
        """Tell what to play to show a moment."""
        found = await self.playable(video, start, end, gone)
        given = urlencode({"start": f"{start:.3f}", "end": f"{end:.3f}"} | ({"encode": "true"} if encode else {}))
        url = f"/api/videos/{video.id}/play?{given}"
        if found is None or encode:
            return PlaybackBody(url=url, start=0.0, end=end - start, type="video/mp4", encoded=True)
        return PlaybackBody(url=url, start=max(start - found.offset, 0.0), end=end - found.offset, type=found.type,
                            encoded=False)

    async def clip(self, video: Video, start: float, end: float, gone: asyncio.Event) -> Path:
        """Encode a moment, the first time that it is asked for; one that is too long is cut.

        Raises:
            VideoError: The video is missing, has changed or can't be read.
        """
        end = min(end, start + LONGEST)
        key = ("clip", video, round(start, 3), round(end, 3))
        path = self.clips.get(key)
        if path is None:
            path = await self.encoders.run(
                lambda job: encode_moment(video, start, end, self.clips.new(".mp4"), job.check), gone, key)
            self.clips.put(key, path)
        return path

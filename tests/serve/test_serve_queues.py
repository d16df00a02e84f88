"""Work is bounded, and stops when its clients leave."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from socket import create_connection
from typing import Any

import httpx
import pytest
from serve.serving import IDS, running, until
from starlette.testclient import TestClient

from egovlpv2.serve import ranges
from egovlpv2.serve.service import Service
from egovlpv2.serve.workers import ClientGone, Job, QueueFull, WorkQueue

A = f"/api/videos/{IDS['a']}"


def test_fifty_at_once(service: Service) -> None:
    paths = [f"/api/search?q=w{i % 7}+w{i}" for i in range(50)] + [f"{A}/frame?at={i / 10}" for i in range(50)]

    async def ask(address: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=50)) as client:
            return await asyncio.gather(*map(client.get, paths))

    with running(service) as address:
        answers = asyncio.run(ask(address))
        assert {answer.status_code for answer in answers} == {200}
        alone = httpx.get(f"{address}{paths[3]}").json()
    assert answers[3].json()["results"] == alone["results"]
    assert service.model.num_waiting == service.readers.num_waiting == 0


class Blocked:
    """A queue whose thread is held up."""

    def __init__(self, queue: WorkQueue) -> None:
        self.queue, self.go, self.begun = queue, threading.Event(), threading.Event()

    def hold(self, job: Job[None]) -> None:
        self.begun.set()
        assert self.go.wait(20)


@pytest.fixture
def queue() -> Iterator[WorkQueue]:
    queue = WorkQueue("test", 1, 3)
    yield queue
    queue.close()


def in_queue(queue: WorkQueue, test: Callable[[Blocked], Any]) -> None:
    async def main() -> None:
        blocked = Blocked(queue)
        first = asyncio.ensure_future(queue.run(blocked.hold, asyncio.Event()))
        await asyncio.to_thread(blocked.begun.wait, 20)
        try:
            await test(blocked)
        finally:
            blocked.go.set()
        await first

    asyncio.run(main())


def test_a_full_queue_refuses_more(queue: WorkQueue) -> None:
    async def test(blocked: Blocked) -> None:
        waiting = [asyncio.ensure_future(queue.run(lambda _, i=i: i, asyncio.Event())) for i in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await queue.run(lambda _: 0, asyncio.Event())
        blocked.go.set()
        assert await asyncio.gather(*waiting) == [0, 1, 2]

    in_queue(queue, test)


def test_work_of_a_client_that_has_left_is_not_begun(queue: WorkQueue) -> None:
    async def test(blocked: Blocked) -> None:
        done: list[int] = []
        gone = asyncio.Event()
        left = asyncio.ensure_future(queue.run(lambda _: done.append(1), gone))
        stays = asyncio.ensure_future(queue.run(lambda _: done.append(2), asyncio.Event()))
        await asyncio.sleep(0)
        gone.set()
        with pytest.raises(ClientGone):
            await left
        assert queue.num_waiting == 1
        blocked.go.set()
        await stays
        assert done == [2]

    in_queue(queue, test)


def test_shared_work_ends_when_its_last_client_leaves(queue: WorkQueue) -> None:
    async def test(blocked: Blocked) -> None:
        counts: list[str] = []
        events = [asyncio.Event() for _ in range(3)]

        def work(job: Job[str]) -> str:
            counts.append("begun")
            return "done"

        clients = [asyncio.ensure_future(queue.run(work, event, key="k")) for event in events]
        await asyncio.sleep(0)
        assert queue.num_waiting == 1
        events[0].set()
        with pytest.raises(ClientGone):
            await clients[0]
        blocked.go.set()
        assert await clients[1] == await clients[2] == "done" and counts == ["begun"]

    in_queue(queue, test)


def test_running_work_is_stopped_at_its_next_check(queue: WorkQueue) -> None:
    async def main() -> None:
        gone, begun, ended = asyncio.Event(), threading.Event(), threading.Event()

        def work(job: Job[None]) -> None:
            begun.set()
            try:
                while True:
                    job.check()
                    time.sleep(0.005)
            finally:
                ended.set()

        running = asyncio.ensure_future(queue.run(work, gone))
        await asyncio.to_thread(begun.wait, 20)
        gone.set()
        with pytest.raises(ClientGone):
            await running
        assert await asyncio.to_thread(ended.wait, 20)

    asyncio.run(main())


def test_short_work_passes_long_work(queue: WorkQueue) -> None:
    async def main() -> None:
        order: list[str] = []
        begun, asked = threading.Event(), threading.Event()

        def long(job: Job[None]) -> None:
            begun.set()
            asked.wait(20)
            queue.let_short_pass()
            order.append("long")

        first = asyncio.ensure_future(queue.run(long, asyncio.Event(), is_short=False))
        await asyncio.to_thread(begun.wait, 20)
        others = [asyncio.ensure_future(queue.run(lambda _: order.append("other"), asyncio.Event(), is_short=False)),
                  asyncio.ensure_future(queue.run(lambda _: order.append("short"), asyncio.Event()))]
        await asyncio.sleep(0)
        asked.set()
        await asyncio.gather(first, *others)
        assert order == ["short", "long", "other"]

    asyncio.run(main())


def test_a_full_queue_is_answered_with_503(service: Service) -> None:
    async def ask(address: str, blocked: Blocked) -> None:
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=httpx.Limits(max_connections=99)) as client:
            held = asyncio.ensure_future(service.model.run(blocked.hold, asyncio.Event()))
            await asyncio.to_thread(blocked.begun.wait, 20)
            waiting = [asyncio.ensure_future(client.get(f"/api/search?q=w{i}")) for i in range(70)]
            end = time.monotonic() + 20
            while sum(task.done() for task in waiting) < 6 and time.monotonic() < end:
                await asyncio.sleep(0.01)
            refused = next(task.result() for task in waiting if task.done())
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
            assert "try again" in refused.json()["error"]
            blocked.go.set()
            statuses = sorted(answer.status_code for answer in await asyncio.gather(*waiting))
            assert statuses == [200] * 64 + [503] * 6
            await held

    with running(service) as address:
        asyncio.run(ask(address, Blocked(service.model)))


def leave_after(address: str, path: str, wait: Callable[[], Any]) -> None:
    """Ask for a path by a connection of its own, and close it once `wait` returns."""
    host, port = address.removeprefix("http://").split(":")
    with closing(create_connection((host, int(port)))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        wait()


def test_a_client_that_leaves_while_it_waits(service: Service) -> None:
    async def hold(blocked: Blocked) -> None:
        await service.model.run(blocked.hold, asyncio.Event())

    blocked = Blocked(service.model)
    with running(service) as address:
        holder = threading.Thread(target=lambda: asyncio.run(hold(blocked)))
        holder.start()
        blocked.begun.wait(20)
        try:
            leave_after(address, "/api/search?q=w5", lambda: until(lambda: service.model.num_waiting == 1))
            until(lambda: service.model.num_waiting == 0)
        finally:
            blocked.go.set()
            holder.join(20)
        assert httpx.get(f"{address}/api/search?q=w5").status_code == 200


def test_a_file_is_read_no_further_when_its_client_leaves(own: tuple[Path, Service, TestClient], tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    _, service, _ = own
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    sent = []

    class Counting(ranges.FileResponse):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def count(message: Any) -> None:
                sent.append(len(message.get("body", b"")))
                await send(message)
            try:
                await super().__call__(scope, receive, count)
            finally:
                sent.append(-1)

    real = ranges.file_response
    monkeypatch.setattr(ranges, "FileResponse", Counting)
    monkeypatch.setattr("egovlpv2.serve.app.file_response", lambda request, path, kind: real(request, large, kind))
    with running(service) as address:
        leave_after(address, f"{A}/play?start=0&end=1", lambda: until(lambda: len(sent) > 3))
        until(lambda: -1 in sent)
        assert sum(sent) < 64 << 20


def test_searches_pass_a_long_locate_which_stops_when_its_client_leaves(service: Service,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Slow:
        def locate(self, *args: Any) -> None:
            events.append("begun")
            try:
                while True:
                    args[-1]()  # between blocks of windows
                    time.sleep(0.01)
            except ClientGone:
                events.append("stopped")
                raise

    monkeypatch.setattr(service, "locator", Slow())
    with running(service) as address:
        def look() -> None:
            until(lambda: events == ["begun"])
            assert httpx.get(f"{address}/api/search?q=w5", timeout=20).status_code == 200
            assert events == ["begun"]

        leave_after(address, f"{A}/locate?q=w5", look)
        until(lambda: events == ["begun", "stopped"])

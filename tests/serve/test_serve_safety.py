"""Who may ask, what is bounded, and what happens when clients leave."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from features.test_extract import write
from search.searching import index
from serve.serving import IDS, QUERY, client_of, running, until, write_index
from starlette.testclient import TestClient

from egovlpv2.cli import main as cli
from egovlpv2.serve import ranges
from egovlpv2.serve.app import make_app
from egovlpv2.serve.caches import ByteCache, FileCache
from egovlpv2.serve.command import listen, names_of, url_of
from egovlpv2.serve.guard import require_token
from egovlpv2.serve.service import Service
from egovlpv2.serve.workers import ClientGone, Job, QueueFull, WorkQueue

TOKEN = "correct-horse-battery"
A = f"/api/videos/{IDS['a']}"


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1", 200), ("127.0.0.1:8000", 200), ("LOCALHOST:9", 200), ("localhost.", 200), ("example.org", 400),
    ("127.0.0.1.example.org", 400), ("", 400), ("127.0.0.1@example.org", 400), ("10.0.0.1", 400)])
def test_only_own_names_are_answered(client: TestClient, host: str, status: int) -> None:
    for path in ("/", "/api/index", "/openapi.json", "/nothing"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == (404 if status == 200 and path == "/nothing" else status)
        assert status == 200 or "--hosts" in answer.json()["error"]


def test_a_server_of_all_addresses_is_asked_by_address_or_by_name(service: Service) -> None:
    client = client_of(make_app(service, {"box"}, any_address=True, token=TOKEN))
    for host, status in (("10.0.0.1:8000", 200), ("[fe80::1]:8000", 200), ("box", 200), ("example.org", 400)):
        answer = client.get("/api/index", headers={"Host": host, "Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == status


def test_every_answer_has_the_headers(client: TestClient) -> None:
    for path in ("/", "/api/index", "/api/nothing", "/api/search", f"{A}/frame?at=1", f"{A}/play?start=0&end=1"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "*" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_pages_of_other_sites_are_refused(client: TestClient) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        assert client.get("/api/index", headers={"Sec-Fetch-Site": site}).status_code == status
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to the page


def test_a_token_is_asked_for(service: Service) -> None:
    app = make_app(service, {"127.0.0.1"}, token=TOKEN)
    for path in ("/", "/docs", "/page/app.js", "/openapi.json", "/api/index", f"{A}/play?start=0&end=1"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                        {"Cookie": "egovlpv2=1"}, {"Cookie": "\xff=\xfe;;="}, {"Authorization": "Bearer \xff"}):
            answer = client_of(app).get(path, headers={k: v.encode("latin-1") for k, v in headers.items()})
            assert answer.status_code == 401 and list(answer.json()) == ["error"]
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client_of(app).get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    client = client_of(app)
    assert client.get("/?token=wrong").status_code == 401
    opened = client.get(f"/?token={TOKEN}")
    assert opened.status_code == 200 and re.fullmatch(
        rf"egovlpv2-\w{{8}}={TOKEN}; HttpOnly; SameSite=Strict; Path=/", opened.headers["set-cookie"])
    assert client.get("/api/index").status_code == 200  # by the cookie
    assert "set-cookie" not in client.get("/api/index").headers


def test_a_token_of_a_user_is_checked() -> None:
    assert require_token(TOKEN) == TOKEN
    for token in ("short", "with space in it", "semi;colon;semi", "x" * 300, "naïve-token"):
        with pytest.raises(ValueError, match="^--token: give 8 to 200"):
            require_token(token)


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
    with closing(socket.create_connection((host, int(port)))) as connection:
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


def test_an_index_that_grows_is_opened_anew(own: tuple[Path, Service, TestClient]) -> None:
    made, service, client = own
    assert client.get("/api/index").json()["videos"] == 4
    service.library._not_before = 0.0
    write(made.parent / "videos" / "new.mp4", 400, 30)
    index(made.parent / "videos", made.parent / "weights.safetensors", made, "--chunk-seconds", 2)
    found = client.get("/api/search", params={"q": QUERY, "top": 50}).json()
    assert "5 videos" in found["searched"] and "new" in {row["name"] for row in found["results"]}
    assert client.get("/api/index").json()["videos"] == 5
    before = service.library.index
    service.library._not_before = 0.0
    os.utime(made / "index.json")  # written anew without a change
    assert client.get("/api/index").status_code == 200 and service.library.index is not before
    (made / "index.json").write_text("{")
    service.library._not_before = 0.0
    assert client.get("/api/index").json()["videos"] == 5  # as it was


def test_pictures_and_clips_are_kept_within_bounds(tmp_path: Path) -> None:
    pictures = ByteCache(100)
    for i in range(20):
        pictures.put(i, bytes(10 + i))
    assert pictures.num_bytes <= 100 and pictures.get(19) == bytes(29) and pictures.get(0) is None
    pictures.put("large", bytes(101))
    assert pictures.get("large") is None
    clips = FileCache(100)
    for i in range(5):
        path = clips.new(".mp4")
        path.write_bytes(bytes(40))
        clips.put(i, path)
    assert clips.num_bytes <= 100 and clips.get(0) is None
    kept = clips.get(4)
    assert kept is not None and len(list(kept.parent.iterdir())) == 2
    kept.unlink()
    assert clips.get(4) is None
    clips.close()
    assert not kept.parent.exists()


def test_where_it_listens() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port} of 127.0.0.1 .*another program uses it: give another"):
            listen("127.0.0.1", port)
        assert url_of("127.0.0.1", first, "") == f"http://127.0.0.1:{port}/"
        assert url_of("::1", first, TOKEN) == f"http://[::1]:{port}/?token={TOKEN}"
    with pytest.raises(ValueError, match="--host 203.0.113.7|this machine has no such address"):
        listen("203.0.113.7", 0)
    with pytest.raises(ValueError, match="there is no such address"):
        listen("no.such.host.invalid", 0)
    assert {"localhost", "127.0.0.1", "::1", "box.example"} <= names_of("127.0.0.1", ["Box.Example."])


def test_what_is_wrong_with_a_command_is_one_line(tmp_path: Path) -> None:
    for options, words in (([str(tmp_path)], "is not an index"), ([str(tmp_path), "--port", "70000"], "--port"),
                           ([str(tmp_path), "--token", "x"], "--token: give 8"), ([], "index")):
        with pytest.raises(SystemExit, match=words):
            cli(["serve", *options])


@pytest.mark.parametrize("more", [(), ("--token", "auto"), ("--host", "0.0.0.0")])
def test_the_command_serves_until_ctrl_c(more: tuple[str, ...], tmp_path: Path) -> None:
    made = write_index(tmp_path)
    command = [sys.executable, "-m", "egovlpv2.cli", "serve", str(made), "--port", "0", "--device", "cpu", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+)/(?:\?token=(\S+))? ", line)
        assert found, line
        assert (found[2] is not None) == bool(more)
        address = f"http://127.0.0.1:{found[1]}/api/search?q=w5"
        given = {"Authorization": f"Bearer {found[2]}"} if found[2] else {}
        assert json.loads(httpx.get(address, headers=given).text)["results"]
        assert httpx.get(address).status_code == (401 if found[2] else 200)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().strip() == "egovlpv2 serve: stopped by Ctrl-C; what is finished stays"


def test_without_the_extra_a_line_says_how_to_install_it(tmp_path: Path) -> None:
    code = ("import importlib.util as u, sys; real = u.find_spec\n"
            "u.find_spec = lambda name, *more: None if name in ('fastapi', 'uvicorn') else real(name, *more)\n"
            f"from egovlpv2.cli import main; main(['serve', {str(tmp_path)!r}])")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and "needs fastapi and uvicorn: `pip install 'egovlpv2[serve]'`" in ended.stderr
    assert "Traceback" not in ended.stderr

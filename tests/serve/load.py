"""Many clients of a server at once: its errors, its latencies and its memory.

    python tests/serve/load.py INDEX [--head HEAD] [--clients 50] [--seconds 300]
"""

import argparse
import asyncio
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

QUERIES = ("#C C opens the jar", "#C C picks up the plate", "#C C pours water from the can into a glass",
           "#C C cuts the banana", "#C C closes the box", "#C C puts down the hammer")
WARM = 0.2  # share of the time before memory is compared
PAUSE = 0.5  # seconds that a client looks at what it got, on average


class Load(NamedTuple):
    """What happened.

    Args:
        first: Seconds of the first search after the address was printed.
        statuses: Answers by kind of request and status.
        seconds: Latencies by kind of request.
        memory: Resident memory of the server over time, megabytes.
    """

    first: float
    statuses: Counter[tuple[str, int]]
    seconds: dict[str, list[float]]
    memory: list[float]

    @property
    def failed(self) -> dict[tuple[str, int], int]:
        """Answers other than those that were asked for; status 0 where there was none."""
        return {key: count for key, count in self.statuses.items() if key[1] not in (200, 206)}

    def grown(self) -> tuple[float, float]:
        """Memory after the first part and at the end: medians of a tenth of the samples each."""
        warm = self.memory[int(len(self.memory) * WARM):]
        part = max(len(warm) // 10, 1)
        return float(np.median(warm[:part])), float(np.median(warm[-part:]))

    def __str__(self) -> str:
        before, after = self.grown()
        rows = [f"{kind:10} {len(values):7} requests, median {np.median(values) * 1000:7.1f} ms, "
                f"99 % {np.quantile(values, 0.99) * 1000:7.1f} ms" for kind, values in sorted(self.seconds.items())]
        return "\n".join([f"first search: {self.first * 1000:.1f} ms", *rows, f"failed: {self.failed or 'none'}",
                          f"memory: {before:.0f} MB after {WARM:.0%} of the time, {after:.0f} MB at the end, "
                          f"{max(self.memory):.0f} MB at most"])


@contextmanager
def started(index: Path, head: Path | None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address."""
    options = ["--head", str(head)] if head else []
    command = [sys.executable, "-m", "egovlpv2.cli", "serve", str(index), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://[^/]+", process.stdout.readline())
        assert found is not None
        try:
            yield process, found[0]
        finally:
            process.terminate()


def resident(process: subprocess.Popen[str]) -> float:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


class Client:
    """A user who searches, looks at pictures and plays, and sometimes leaves in between."""

    def __init__(self, http: httpx.AsyncClient, load: Load, queries: tuple[str, ...], locates: bool, seed: int) -> None:
        self.http, self.load, self.queries, self.locates = http, load, queries, locates
        self.random = random.Random(seed)

    async def get(self, kind: str, path: str, headers: dict[str, str] | None = None, **given: Any) -> httpx.Response:
        begun = time.monotonic()
        try:
            answer = await self.http.get(path, params=given or None, headers=headers)
        except httpx.HTTPError as error:
            print(f"{kind}: {error!r}", flush=True)
            answer = httpx.Response(0, json={})
        self.load.seconds[kind].append(time.monotonic() - begun)
        self.load.statuses[kind, answer.status_code] += 1
        return answer

    async def run(self, end: float) -> None:
        while time.monotonic() < end:
            await self.visit()
            await asyncio.sleep(self.random.expovariate(1 / PAUSE))

    async def visit(self) -> None:
        query, draw = self.random.choice(self.queries), self.random.random()
        for length in range(len(query) // 2, len(query), 6):  # as it is typed, each request left for the next
            typing = asyncio.ensure_future(self.http.get("/api/search", params={"q": query[:length].strip() or "C"}))
            await asyncio.sleep(0.01)
            typing.cancel()
        answer = await self.get("search", "/api/search", q=query, top=self.random.choice((5, 20)),
                                **({"rerank": 5} if draw < 0.05 else {}))
        rows = answer.json().get("results", [])
        for row in rows[:6]:
            await self.get("frame", f"/api/videos/{row['video']}/frame", at=round((row["start"] + row["end"]) / 2, 3))
        if rows:
            await self.open(self.random.choice(rows), query, draw)
        if draw > 0.97:
            await self.get("clips", "/api/export", q=query, top=2, format="zip")

    async def open(self, row: dict[str, Any], query: str, draw: float) -> None:
        path = f"/api/videos/{row['video']}"
        span = {"start": row["start"], "end": row["end"]} | ({"encode": "true"} if draw < 0.1 else {})
        told = (await self.get("playback", f"{path}/playback", **span)).json()
        if "url" not in told:
            return
        for part in ("bytes=0-65535", "bytes=1000-"):
            await self.get("play", told["url"], {"Range": part})
        if draw < 0.02:
            await self.get("attention", f"{path}/attention", at=(row["start"] + row["end"]) / 2, q=query)
        elif draw < 0.03 and self.locates:
            await self.get("locate", f"{path}/locate", q=query)


async def drive(process: subprocess.Popen[str], address: str, clients: int, seconds: float, queries: tuple[str, ...],
                locates: bool) -> Load:
    async with httpx.AsyncClient(base_url=address, timeout=120, trust_env=False, limits=httpx.Limits(
            max_connections=2 * clients, keepalive_expiry=5.0)) as http:
        begun = time.monotonic()
        (await http.get("/api/search", params={"q": queries[0]})).raise_for_status()
        load = Load(time.monotonic() - begun, Counter(), defaultdict(list), [])
        end = time.monotonic() + seconds
        visitors = asyncio.gather(*(Client(http, load, queries, locates, i).run(end) for i in range(clients)))
        while not visitors.done():
            load.memory.append(resident(process))
            await asyncio.wait([visitors], timeout=max(seconds / 300, 0.2))
        await visitors
    return load


def run(index: Path, head: Path | None = None, clients: int = 50, seconds: float = 300.0,
        queries: tuple[str, ...] = QUERIES) -> Load:
    """Let clients use a server for a while."""
    with started(index, head) as (process, address):
        return asyncio.run(drive(process, address, clients, seconds, queries, head is not None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--head", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300.0)
    given = parser.parse_args()
    print(run(given.index, given.head, given.clients, given.seconds))

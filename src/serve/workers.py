"""Bounded queues of work in threads. Work whose clients have all left is dropped."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_END_SECONDS = 5.0  # for the work in progress, when a queue is closed

T = TypeVar("T")


class QueueFull(Exception):
    """An error for work that is refused as too much is waiting already."""


class ClientGone(Exception):
    """An error for work whose clients have all left."""


@dataclass(eq=False)
class Job(Generic[T]):
    """Work that one or more clients wait for.

    Args:
        work: A function of the job; long ones call `check` from time to time.
        loop: That of the clients.
        result: What the clients wait for.
        key: Clients that ask for the same key share a job; None for a job of its own.
        is_short: Whether long work may let it pass, see `WorkQueue.let_short_pass`.
    """

    work: Callable[["Job[T]"], T]
    loop: asyncio.AbstractEventLoop
    result: "asyncio.Future[T]"
    key: Hashable = None
    is_short: bool = True
    clients: int = 0

    def check(self) -> None:
        """Stop the work if nobody waits for it any more.

        Raises:
            ClientGone: All clients have left.
        """
        if not self.clients:
            raise ClientGone

    def run(self) -> None:
        """Do the work, in a thread, and hand its result or error to the clients."""
        try:
            self.check()
            value = self.work(self)
        except Exception as error:  # of any kind: it is the clients' to handle
            self._hand_over(self._fail, error)
        else:
            self._hand_over(self._succeed, value)

    def _hand_over(self, settle: Callable[[Any], None], outcome: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self.loop.call_soon_threadsafe(settle, outcome)

    def _succeed(self, value: T) -> None:
        if not self.result.done():
            self.result.set_result(value)

    def _fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # there may be no client left to see it


class WorkQueue:
    """Threads that do work in the order in which it was asked for.

    Its methods are called in the event loop's thread, but for `let_short_pass`.

    Args:
        name: Of the threads.
        num_threads: How many.
        most_waiting: Jobs that may wait; more are refused.
    """

    def __init__(self, name: str, num_threads: int = 1, most_waiting: int = 64) -> None:
        self.most_waiting = most_waiting
        self._waiting: deque[Job[Any]] = deque()
        self._shared: dict[Hashable, Job[Any]] = {}
        self._change = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
                         for i in range(num_threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[Job[T]], T], gone: asyncio.Event, key: Hashable = None,
                  is_short: bool = True) -> T:
        """Wait for work to be done.

        Args:
            work: As for `Job`.
            gone: Set when the client has left.
            key: As for `Job`.
            is_short: As for `Job`.

        Raises:
            QueueFull: Too much is waiting already.
            ClientGone: The client has left.
        """
        if shared := self._shared.get(key):
            shared.clients += 1
        job: Job[T] = shared or self._add(work, key, is_short)
        leaving = asyncio.ensure_future(gone.wait())
        try:
            await asyncio.wait((job.result, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not job.result.done():
                raise ClientGone
            return job.result.result()
        finally:
            leaving.cancel()
            job.clients -= 1
            if not job.clients:
                self._drop(job)

    def _add(self, work: Callable[[Job[T]], T], key: Hashable, is_short: bool) -> Job[T]:
        loop = asyncio.get_running_loop()
        job = Job(work, loop, loop.create_future(), key, is_short, clients=1)  # before a thread can take it
        with self._change:
            if len(self._waiting) >= self.most_waiting or self._closed:
                raise QueueFull
            self._waiting.append(job)
            self._change.notify()
        if key is not None:
            self._shared[key] = job
            job.result.add_done_callback(lambda _: self._forget(job))
        return job

    def _forget(self, job: Job[Any]) -> None:
        if self._shared.get(job.key) is job:
            del self._shared[job.key]

    def _drop(self, job: Job[Any]) -> None:
        """Remove a job without clients from the queue; one that runs ends at its next check."""
        self._forget(job)
        with self._change, suppress(ValueError):  # it runs already
            self._waiting.remove(job)

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._waiting.popleft()
            job.run()
            del job  # with its result, which would otherwise stay until the next job comes

    def let_short_pass(self) -> None:
        """Do the short jobs that are waiting: called by long work, in its thread, between its steps."""
        with self._change:
            short = [job for job in self._waiting if job.is_short]
            for job in short:
                self._waiting.remove(job)
        for job in short:
            job.run()

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    def close(self) -> None:
        """Drop what is waiting and end the threads; work in progress has some seconds to end."""
        with self._change:
            self._closed = True
            self._waiting.clear()
            self._change.notify_all()
        for thread in self._threads:
            thread.join(_END_SECONDS)

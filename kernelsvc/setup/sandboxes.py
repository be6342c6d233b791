"""The sandboxes that a setup works in: apart from its session's, and the session's own."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from kernelsvc.errors import NoCapacity
from kernelsvc.files.workspace import Workspaces
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.seat import Seat
from kernelsvc.kernels.specs import PYTHON
from kernelsvc.models.limits import Limits
from kernelsvc.setup.cache import DownloadCache
from kernelsvc.setup.run_pip import UNPACKING

T = TypeVar("T")

_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class SetupPolicy:
    """`timeout` in seconds; `environment` is what all programs of setups get.

    `most` may be at work at once.
    """

    timeout: float
    internet: bool
    environment: Mapping[str, str]
    cache_bytes: int
    most: int


@dataclass(frozen=True)
class SetupParts:
    """What every setup works with; each has one of the `turns` while it is at work."""

    policy: SetupPolicy
    launcher: Launcher
    workspaces: Workspaces
    cache: DownloadCache
    turns: asyncio.Semaphore

    @classmethod
    def open(
        cls, policy: SetupPolicy, launcher: Launcher, workspaces: Workspaces, cache: Path
    ) -> Self:
        """With the cache in that directory, which is made where there is none."""
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        downloads = DownloadCache(cache, policy.cache_bytes)
        return cls(policy, launcher, workspaces, downloads, asyncio.Semaphore(policy.most))


class Failed(Exception):
    """The setup has come to its end before all was done; says why."""


@dataclass
class Sandbox:
    """A seat, and the workspace that it shows where that is not the session's."""

    seat: Seat
    spare: Path | None = None
    logs: int = 0


class Stop:
    """The end of a setup from outside: by the clock, once it runs, or for a reason."""

    def __init__(self) -> None:
        self.asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._seconds = math.inf
        self._deadline = math.inf

    def ask(self, reason: str) -> None:
        """End it; the first reason counts."""
        if not self.asked.done():
            self.asked.set_result(reason)

    def start(self, seconds: float) -> None:
        """The clock starts."""
        self._seconds, self._deadline = seconds, time.monotonic() + seconds

    @property
    def reason(self) -> str | None:
        """Why it is to end now; None where it is not."""
        if self.asked.done():
            return self.asked.result()
        if time.monotonic() >= self._deadline:
            return f"the setup took longer than {self._seconds:g} s"
        return None

    async def wait(self, other: "asyncio.Future[T]", seconds: float = math.inf) -> None:
        """Return when the other is done, it is to end, or so much time is over."""
        seconds = max(0.0, min(seconds, self._deadline - time.monotonic()))
        timeout = None if math.isinf(seconds) else seconds
        waiting: list[asyncio.Future[T] | asyncio.Future[str]] = [other, self.asked]
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def or_result(self, waiting: Awaitable[T]) -> T:
        """The result; raises Failed where it is to end before there is one."""
        task = asyncio.ensure_future(waiting)
        await self.wait(task)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise Failed(self.reason or "it was given up")
        return task.result()


class Sandboxes:
    """Makes a setup's sandboxes. `take` counts one more (raises NoCapacity), `give_back` less.

    `seat` is the one that is in use.
    """

    def __init__(
        self,
        parts: SetupParts,
        session_id: str,
        limits: Limits,
        stop: Stop,
        take: Callable[[], Awaitable[None]],
        give_back: Callable[[], None],
    ) -> None:
        self.seat: Seat | None = None
        self._parts = parts
        self._session_id = session_id
        self._limits = limits
        self._stop = stop
        self._take = take
        self._give_back = give_back

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[Sandbox]:
        """One apart from the session's, with the cache and an empty workspace."""
        workspaces, cache = self._parts.workspaces, self._parts.cache
        internet = self._parts.policy.internet
        async with AsyncExitStack() as stack:
            await self._stop.or_result(stack.enter_async_context(cache.used()))
            spare = await asyncio.to_thread(workspaces.make_spare)
            try:
                async with self._seated(spare, internet=internet, cache=cache.path) as seat:
                    yield Sandbox(seat, spare)
            finally:
                await asyncio.to_thread(workspaces.drop_spare, spare)

    @asynccontextmanager
    async def own(self) -> AsyncIterator[Sandbox]:
        """One of the session's, in which its code runs; with the internet where setups have it."""
        workspaces, internet = self._parts.workspaces, self._parts.policy.internet
        try:
            path = workspaces.path(self._session_id)
            async with self._seated(path, internet=internet) as seat:
                yield Sandbox(seat)
        finally:
            await asyncio.to_thread(workspaces.discard, self._session_id, UNPACKING)

    @asynccontextmanager
    async def _seated(
        self, workspace: Path, *, internet: bool, cache: Path | None = None
    ) -> AsyncIterator[Seat]:
        await self._take_patiently()
        try:
            seat = await self._parts.launcher.seat(
                PYTHON, workspace, self._limits, internet=internet, cache=cache
            )
            before, self.seat = self.seat, seat
            try:
                yield seat
            finally:
                self.seat = before
                await seat.close()
        finally:
            self._give_back()

    async def _take_patiently(self) -> None:
        """Count a sandbox more, as soon as there is room for one; raises Failed."""
        while (reason := self._stop.reason) is None:
            try:
                await self._take()
            except NoCapacity:
                await asyncio.wait([self._stop.asked], timeout=_AGAIN_SECONDS)
            else:
                return
        raise Failed(reason)

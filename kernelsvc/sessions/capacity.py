"""How many sandboxes there may be at once, and whose goes when another is needed.

A sandbox is counted from before it is started until it is freed. Where all are taken, or the
machine's memory runs short, those go first that wait for no session yet, then the session that has
been idle for longest is put to sleep; where every one is at work, the newcomer is refused, at once.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from kernelsvc.errors import KernelsvcError, NoCapacity

_MEMORY = Path("/proc/meminfo")
FIRST_USE_SECONDS = 0.05
"""So long after one was started is none begun for the reserve: its first run is about to come."""

log = structlog.get_logger()


class Idler(Protocol):
    """A session that may be put to sleep."""

    @property
    def is_busy(self) -> bool:
        """Whether something goes on in it."""
        ...

    @property
    def has_kernel(self) -> bool:
        """Whether it would free anything."""
        ...

    @property
    def active_at(self) -> float:
        """When something last happened in it (time.monotonic())."""
        ...

    async def sleep(self) -> None:
        """End its kernel and sandbox; raises SessionBusy."""
        ...


class Reserve(Protocol):
    """Sandboxes that wait for sessions to come."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    async def shrink(self) -> bool:
        """End one; whether there was one."""
        ...


@dataclass(frozen=True)
class CapacityPolicy:
    """`min_free_memory` is in bytes of what the machine has available."""

    max_kernels: int
    max_starting: int
    min_free_memory: int


class Capacity:
    """Counts sandboxes. `idlers` are the sessions that are awake, `reserve` those that wait."""

    def __init__(
        self,
        policy: CapacityPolicy,
        idlers: Callable[[], Iterable[Idler]],
        reserve: Reserve,
        free_memory: Callable[[], int] | None = None,
    ) -> None:
        self._policy = policy
        self._idlers = idlers
        self._reserve = reserve
        self._free_memory = free_memory or available_memory
        self._taken = 0
        self._starting = asyncio.Semaphore(policy.max_starting)
        self._starts = 0
        self._calm = asyncio.Event()
        self._calm.set()
        self._calm_at = -math.inf

    @property
    def taken(self) -> int:
        """How many sandboxes sessions have."""
        return self._taken

    async def take(self) -> None:
        """Count one more sandbox, making room for it where need be; raises NoCapacity."""
        while self._is_full() or self._is_short_of_memory():
            if not await self._reserve.shrink() and not await self._put_idlest_to_sleep():
                if self._taken >= self._policy.max_kernels:
                    raise NoCapacity(f"all {self._policy.max_kernels} kernels are at work")
                raise NoCapacity("this machine's memory runs short")
        self._taken += 1

    def take_over(self) -> None:
        """Count one that an earlier service has made, whether or not there is room for it."""
        self._taken += 1

    def give_back(self) -> None:
        """Count one less."""
        self._taken -= 1

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Wait for a turn to start a kernel: so many start at once, in order of arrival."""
        with self.hurry():
            async with self._starting:
                yield

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Within, nothing is begun for the reserve: somebody waits for a kernel."""
        self._starts += 1
        self._calm.clear()
        try:
            yield
        finally:
            self._starts -= 1
            if not self._starts:
                self._calm_at = time.monotonic()
                self._calm.set()

    async def may_prepare(self) -> bool:
        """Return when no session waits for a kernel to start; whether one may be kept in reserve.

        There is to be twice as much memory left as must be: else it would soon have to go again.
        """
        await self._calm.wait()
        while time.monotonic() < self._calm_at + FIRST_USE_SECONDS:
            await asyncio.sleep(FIRST_USE_SECONDS)
            await self._calm.wait()
        return not self._is_full() and not self._is_short_of_memory(2)

    async def relieve(self) -> None:
        """For as long as memory runs short: end what is in reserve, put idle sessions to sleep."""
        while self._is_short_of_memory() and (
            await self._reserve.shrink() or await self._put_idlest_to_sleep()
        ):
            pass

    def _is_full(self) -> bool:
        return self._taken + self._reserve.size >= self._policy.max_kernels

    def _is_short_of_memory(self, times: int = 1) -> bool:
        return self._free_memory() < times * self._policy.min_free_memory

    async def _put_idlest_to_sleep(self) -> bool:
        """Whether there was one."""
        idle = [each for each in self._idlers() if each.has_kernel and not each.is_busy]
        if not idle:
            return False
        idlest = min(idle, key=lambda each: each.active_at)
        try:
            await idlest.sleep()
        except KernelsvcError:
            # It was given work meanwhile, or is being deleted; another may be idle.
            return any(each is not idlest for each in idle)
        log.info("session_made_room", taken=self._taken)
        return True


def available_memory() -> int:
    """Bytes that programs can still have, as the system estimates it."""
    for line in _MEMORY.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_MEMORY} does not tell what memory is available")

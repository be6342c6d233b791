"""The pages of memory that every run writes to, copied before a run has to wait for it.

Theory of operation. A fork costs the parent twice: once for the page tables, and then for each page
that it writes to, which is copied first. A run that does nothing writes to a thousand pages (the
counts of references are all over the heap), and would be some milliseconds slower behind each
snapshot. Those pages are much the same each time. So now and then, behind a short run, they are
looked up: those that this process has for itself while a snapshot lives (/proc/self/pagemap). After
each fork from then on they are copied a few at a time, until the next run comes. One that comes at
once is better off copying what it needs than waiting for all of them.
"""

import array
import asyncio
import contextlib
import os
from collections.abc import Iterator

from kernelsvc.kernel_host.processes import LIBC

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14: as if each page had been written to
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_IS_EXCLUSIVE = 1 << 56 | 1 << 63  # mapped by this process only; present
_ENTRY_BYTES = 8
_LARGEST_MAPPING = 16 << 20
"""A larger one is full of the code's data rather than of what each run needs."""
_MOST_PAGES = 4096
_AT_A_TIME = 64
LEARN_AGAIN = 64
"""So many times they are copied, then they are looked up anew."""

Range = tuple[int, int]


class HotPages:
    """The pages to copy after a fork; none until they have been learnt."""

    def __init__(self) -> None:
        self._ranges: list[Range] = []
        self._age = LEARN_AGAIN
        self._timer: asyncio.TimerHandle | None = None

    def learn(self) -> None:
        """Behind a short run, with a snapshot from before it: look up what it has written to."""
        if self._age < LEARN_AGAIN:
            return
        self._age = 0
        with contextlib.suppress(OSError, ValueError):
            ranges = [*_own_pages()]
            pages = sum(size for _, size in ranges) // _PAGE_BYTES
            self._ranges = ranges if pages <= _MOST_PAGES else []

    def copy_soon(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """So long after a fork: copy them behind what else there is to do, until `stop`."""
        steps = self.copy()

        def step() -> None:
            if next(steps, self) is not self:
                go_on()

        def go_on(seconds: float = 0) -> None:
            # Not `call_soon`: what has come by then goes first.
            self._timer = loop.call_later(seconds, step)

        go_on(seconds)

    def stop(self) -> None:
        """A run has come."""
        if self._timer is not None:
            self._timer.cancel()

    def copy(self) -> Iterator[None]:
        """A few at each step; none once before they are looked up, or none would ever drop out."""
        self._age += 1
        if self._age == LEARN_AGAIN:
            return
        for start in range(0, len(self._ranges), _AT_A_TIME):
            for address, size in self._ranges[start : start + _AT_A_TIME]:
                # Of what is mapped no more, there is nothing to copy.
                LIBC.madvise(address, size, _POPULATE_WRITE)
            yield


def _own_pages() -> Iterator[Range]:
    """The pages of private memory that no other process maps, as ranges: address, bytes."""
    with open("/proc/self/maps", "rb") as maps, open("/proc/self/pagemap", "rb", 0) as pagemap:
        for line in maps:
            where, flags, _, _, inode, *_ = line.split()
            first, last = (int(each, 16) for each in where.split(b"-"))
            if flags != b"rw-p" or inode != b"0" or last - first > _LARGEST_MAPPING:
                continue
            pagemap.seek(first // _PAGE_BYTES * _ENTRY_BYTES)
            entries = array.array("Q", pagemap.read((last - first) // _PAGE_BYTES * _ENTRY_BYTES))
            start = None
            for index, entry in enumerate((*entries, 0)):
                if entry & _IS_EXCLUSIVE == _IS_EXCLUSIVE:
                    start = index if start is None else start
                elif start is not None:
                    yield first + start * _PAGE_BYTES, (index - start) * _PAGE_BYTES
                    start = None

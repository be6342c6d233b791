"""A run's events, numbered from 1, as long as there is room for them.

Theory of operation. The kernel's side only ever adds: it waits for nobody. Each reader remembers
the number of the last event that it has seen and asks for what came behind it, at its own pace.
What is held is bounded, the oldest goes first; a reader that asks too late gets a `Missed` in place
of what has gone. Events are turned into text by who reads them: nobody pays for what nobody reads.
"""

import asyncio
import json
from collections.abc import Callable, Iterator

from kernelsvc.models.event import Display, Event, Missed, Raised, Result, Text, UpdateDisplay

# What an event costs beside its text.
_ITEM_BYTES = 200
_COMPACT_FROM = 256


Numbered = tuple[int, Event | Missed]
"""An event and its number; the number of a `Missed` is that of the last that is missing."""


class EventLog:
    """The latest events of a run, of `max_bytes` at most; `sink` gets each as it comes."""

    def __init__(self, max_bytes: int, sink: Callable[[Event], None]) -> None:
        self._max_bytes = max_bytes
        self._sink = sink
        # The events from `_first` on are `_items[_start:]`, each with the size of all before it.
        self._items: list[tuple[Event, int] | None] = []
        self._start = 0
        self._first = 1
        self._gone = 0
        self._total = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self.has_ended = False

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._first + len(self._items) - self._start - 1

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return self._total - self._gone

    def add(self, event: Event) -> None:
        """Take the run's next event."""
        self._sink(event)
        self._items.append((event, self._total))
        self._total += _size(event)
        if self._total - self._gone > self._max_bytes:
            self._trim()
        if self._waiting:
            self._wake()

    def end(self) -> None:
        """Nothing will be added any more; the sink is let go."""
        self.has_ended, self._sink = True, _nowhere
        self._wake()

    def _trim(self) -> None:
        while self._start < len(self._items) and self._total - self._gone > self._max_bytes:
            self._items[self._start] = None
            self._start += 1
            self._first += 1
            following = self._items[self._start] if self._start < len(self._items) else None
            self._gone = self._total if following is None else following[1]
        if self._start > _COMPACT_FROM and self._start * 2 > len(self._items):
            del self._items[: self._start]
            self._start = 0

    def after(self, number: int, seen: int, max_bytes: int) -> Iterator[Numbered]:
        """What came behind event `number`, up to about `max_bytes` of it, one event at least.

        `seen` are the bytes up to and with that event, as `position` tells them.
        """
        if number < self._first - 1:
            yield self._first - 1, Missed(self._first - 1 - number, max(0, self._gone - seen))
            number = self._first - 1
        index = self._start + number - self._first + 1
        begin: int | None = None
        while index < len(self._items):
            item = self._items[index]
            assert item is not None
            event, before = item
            if begin is None:
                begin = before
            elif before - begin >= max_bytes:
                return
            number += 1
            index += 1
            yield number, event

    def position(self, number: int) -> int:
        """How many bytes, about, the events up to `number` have; of those that went, all."""
        index = self._start + number - self._first + 1
        if index < self._start:
            return 0 if number <= 0 else self._gone
        item = self._items[index] if index < len(self._items) else None
        return self._total if item is None else item[1]

    def wait(self) -> "asyncio.Future[None]":
        """A future that is done when something is added or the end has come; cancel it or not."""
        future = asyncio.get_running_loop().create_future()
        if self.has_ended:
            future.set_result(None)
        else:
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
        return future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _nowhere(event: Event) -> None:
    """Where events of a run go that has ended."""


def _size(event: Event) -> int:
    """About how many bytes an event takes: characters, not bytes, where that is dear to know."""
    match event:
        case Text(text=text):
            return _ITEM_BYTES + len(text)
        case Display(data=data) | Result(data=data) | UpdateDisplay(data=data):
            return _ITEM_BYTES + sum(
                len(value) if isinstance(value, str) else len(json.dumps(value))
                for value in data.values()
            )
        case Raised(evalue=evalue, traceback=traceback):
            return _ITEM_BYTES + len(evalue) + sum(map(len, traceback))
        case _:
            return _ITEM_BYTES

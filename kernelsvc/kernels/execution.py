"""One execute request, from when it is sent until it has ended.

A run has ended when the reply and the `idle` of its request are here; our own kernel sends both in
one message. Either may be lost (code can break its kernel in many ways), so the other alone ends it
after `LOST_SECONDS` without a word.
"""

import asyncio
import time
from collections.abc import Callable

from kernelsvc.models.event import Event, Idle, Replied, Started
from kernelsvc.models.memory import MemoryTold

LOST_SECONDS = 1.0

EventSink = Callable[[Event], None]


class Execution:
    """One execute request; what it says goes to its sink until `release`.

    `started_at` is when the kernel began with it, by the event loop's clock.
    """

    def __init__(self, request_id: str, sink: EventSink) -> None:
        self.request_id = request_id
        self.started_at: float | None = None
        self.is_done = False
        self.reply: Replied | None = None
        self.memory: MemoryTold | None = None
        self.complete = False
        self.released = False
        self._sink = sink
        self._idle = False
        self._heard_at = time.monotonic()
        self._patience: asyncio.TimerHandle | None = None
        self._news: asyncio.Future[None] | None = None
        self._start_is_news = False

    async def news(self, seconds: float, *, start: bool = False) -> None:
        """Wait until it is done, `ring` is called, so long at most; with `start`, for that too.

        For one task at a time: it need not wake for what is no news to it.
        """
        loop = asyncio.get_running_loop()
        self._start_is_news = start
        self._news = news = loop.create_future()
        timer = loop.call_later(seconds, _resolve, news)
        try:
            await news
        finally:
            timer.cancel()

    def ring(self) -> None:
        """Let who waits for news look."""
        if self._news is not None:
            _resolve(self._news)

    async def until_done(self, seconds: float) -> None:
        """Wait until it is done, so long at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not self.is_done and (left := deadline - loop.time()) > 0:
            await self.news(left)

    def hear(self, event: Event) -> None:
        """An event of this request has arrived."""
        self._heard_at = time.monotonic()
        match event:
            case Started():
                self._begin()
            case Idle(reply, memory):
                self._idle = True
                self.reply = reply or self.reply
                self.memory = memory
                self._conclude()
            case _:
                self._sink(event)

    def _begin(self) -> None:
        if self.started_at is None:
            self.started_at = asyncio.get_running_loop().time()
            if self._start_is_news:
                self.ring()

    def hear_reply(self, reply: Replied) -> None:
        """The reply has arrived."""
        self._heard_at = time.monotonic()
        self.reply = reply
        self._conclude()

    def _conclude(self) -> None:
        if self.reply is not None and self._idle:
            self.complete = True
            self.end()
        elif self._patience is None:
            self._wait_for_the_other(LOST_SECONDS)

    def _wait_for_the_other(self, seconds: float) -> None:
        self._patience = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        left = self._heard_at + LOST_SECONDS - time.monotonic()
        if left > 0:
            self._wait_for_the_other(left)
        else:
            self.end()

    def release(self) -> None:
        """Its sink takes nothing more; what still comes is late."""
        self.released = True

    def end(self) -> None:
        """Nothing more is expected, but what a kernel that is being ended may still say."""
        if self._patience is not None:
            self._patience.cancel()
        self.is_done = True
        self.ring()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

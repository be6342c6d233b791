"""Bytes both ways between a client and a server that have agreed on another protocol than HTTP."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol


class Side(Protocol):
    """One end. What is written has been taken when `write_raw` returns."""

    async def read_raw(self) -> bytes:
        """The next bytes; nothing at the end."""

    async def write_raw(self, data: bytes) -> None:
        """Send bytes."""


async def pipe(one: Side, other: Side, idle_seconds: float) -> None:
    """Copy both ways until one side ends or breaks off, or nothing has moved for so long.

    Closing them is the caller's.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(idle_seconds) as quiet:

            def put_off() -> None:
                if not quiet.expired():
                    quiet.reschedule(loop.time() + idle_seconds)

            ways = [
                asyncio.create_task(_copy(one, other, put_off)),
                asyncio.create_task(_copy(other, one, put_off)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def _copy(source: Side, sink: Side, moved: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read_raw():
            moved()
            await sink.write_raw(data)
            moved()

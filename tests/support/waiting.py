"""Waiting for an effect in the world that nothing announces."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def eventually(check: Callable[[], Any], seconds: float = 10) -> Any:
    """The first true value of `check()`, which may be a coroutine function; fails in the end."""
    async with asyncio.timeout(seconds):
        while True:
            value = check()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.01)

"""Forgets what is older than is kept, once an hour."""

import asyncio
from typing import Final

import structlog

from kernelsvc.store.runs import RunStore

_EVERY_SECONDS: Final = 3600.0

log = structlog.get_logger()


class Sweeper:
    """One task, which begins with a sweep."""

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            try:
                await self._runs.forget_old()
            except Exception:
                # The database may answer again.
                log.exception("sweep_failed")
            await asyncio.sleep(_EVERY_SECONDS)

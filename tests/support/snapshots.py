"""Waiting for the copy of its memory that a kernel makes behind a run."""

from typing import Any

from tests.support.api import Api
from tests.support.named import named
from tests.support.waiting import eventually


async def run_and_copy(api: Api, code: str) -> Any:
    """A run's answer, once the snapshot of the memory behind it waits, and no other one."""
    before = {process.pid for process in named("snapshot")}
    run = await api.run(code)

    def waits() -> bool:
        now = {process.pid for process in named("snapshot")}
        return len(now) == 1 and now != before

    await eventually(waits)
    return run

"""Waiting for the copy of its memory that a kernel makes behind a run."""

from typing import Any

from tests.support.api import Api
from tests.support.inside import number_inside
from tests.support.named import named
from tests.support.waiting import eventually

_NEWEST = "print(open('/proc/loadavg').read().split()[-1])"
"""In a sandbox: the number of the process that was started last."""


async def run_and_copy(api: Api, code: str) -> Any:
    """A run's answer, once the snapshot of the memory behind it waits, and no other one.

    That of the memory before the run may only just have been made when the code begins.
    """
    run = await api.run(f"{_NEWEST}\n{code}")
    newest, _, run["stdout"] = run["stdout"].partition("\n")

    def waits() -> bool:
        there = [number_inside(process) or 0 for process in named("snapshot")]
        return len(there) == 1 and there[0] > int(newest)

    await eventually(waits)
    return run

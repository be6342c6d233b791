"""Create, run, delete, over and over: nothing may be left behind.

The service is in this process, so that its tasks and descriptors can be counted as well as its
processes and files. Fails where it holds more behind the cycles than before.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import httpx

from kernelsvc.app import serving
from kernelsvc.logs import configure_logging
from kernelsvc.settings import load_settings
from tests.benchmarks.figures import Row, single
from tests.benchmarks.plan import Plan
from tests.support.api import Api
from tests.support.leaks import Holdings, holdings

_WARM_UP = 8
_AT_ONCE = 4
_SETTLE_SECONDS = 10


class LeftBehind(Exception):
    """The service holds something that it did not hold before."""


async def cycle(api: Api, number: int) -> None:
    """One session's whole life."""
    session_id = f"cycle-{number}"
    await api.create(session_id)
    run = await api.run("open('f', 'w').write('x')\nprint('y' * 1000)", session_id)
    assert run["exit_code"] == 0, run
    answer = await api.send("DELETE", f"/api/sessions/{session_id}")
    assert answer.status == 200, answer


async def cycles(api: Api, numbers: range) -> None:
    """These cycles, a few at a time."""
    for start in range(numbers.start, numbers.stop, _AT_ONCE):
        await asyncio.gather(
            *(cycle(api, n) for n in range(start, min(start + _AT_ONCE, numbers.stop)))
        )


async def settled(expected: Holdings, *directories: Path) -> Holdings:
    """What is held when it equals `expected`, or when there was time enough for that."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (now := holdings(*directories)) != expected and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return now


async def measure(plan: Plan) -> list[Row]:
    """How many cycles a second; raises LeftBehind."""
    configure_logging("human", "warning")
    count = plan.rounds_of(1000, 20)
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory(prefix="ks") as runtime:
        directories = (Path(data), Path(runtime))
        settings = load_settings(port=0, data_dir=Path(data), runtime_dir=Path(runtime))
        async with serving(settings) as server, httpx.AsyncClient(base_url=server.url) as http:
            api = Api(http)
            await cycles(api, range(_WARM_UP))
            before = holdings(*directories)
            began = time.monotonic()
            await cycles(api, range(_WARM_UP, _WARM_UP + count))
            seconds = time.monotonic() - began
            after = await settled(before, *directories)
    if before != after:
        raise LeftBehind(f"before {before}\nafter  {after}")
    subject = f"{count} create, run, delete; nothing left"
    return [single("cycles", subject, count / seconds, "cycles/s")]

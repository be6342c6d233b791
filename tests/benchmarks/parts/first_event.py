"""How long after a `print` its event is with the client; the code prints the time it has."""

import time

import httpx

from tests.benchmarks.contestants.base import first_run, running
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.plan import Plan
from tests.support.sse import events_of

_PAUSE = 0.02


async def measure(plan: Plan) -> list[Row]:
    """A row for the first print of a run, and one for those that follow it, with tails."""
    ours = Kernelsvc()
    first: list[float] = []
    later: list[float] = []
    async with running(ours):
        session = await ours.create()
        await first_run(session)
        async with httpx.AsyncClient(base_url=ours.url, timeout=60) as http:
            for _ in range(plan.rounds_of(40, 5)):
                seconds = await _delays(http, f"{session.path}/stream", 6)
                first.append(seconds[0])
                later.extend(seconds[1:])
    return [
        *rows("first_event", {ours.name: first}, ours.name, tails=True),
        *rows("later_events", {ours.name: later}, ours.name, tails=True),
    ]


async def _delays(http: httpx.AsyncClient, path: str, prints: int) -> list[float]:
    code = (
        f"import time\n"
        f"for _ in range({prints}):\n"
        f"    print(time.time(), flush=True)\n"
        f"    time.sleep({_PAUSE})"
    )
    delays = []
    async with http.stream("POST", path, json={"code": code}) as response:
        async for event in events_of(response):
            now = time.time()
            # The end of a line may come as an event of its own.
            if event.name == "stdout" and (printed := event.data["content"].split()):
                delays.append(now - float(printed[0]))
    return delays

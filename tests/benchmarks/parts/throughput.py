"""Runs of `pass` a second with eight sessions at it, each sending a run behind the other."""

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial

from tests.benchmarks.contestants.bare import Bare
from tests.benchmarks.contestants.base import Contestant, Session, running, sessions
from tests.benchmarks.contestants.jupyter_server import JupyterServer
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.rounds import Measure, interleaved

_SESSIONS = 8


async def runs_a_second(at_work: list[Session], runs: int) -> float:
    """How many runs a second, when each session makes this many."""

    async def repeat(session: Session) -> None:
        for _ in range(runs):
            await session.run("pass")

    began = time.perf_counter()
    await asyncio.gather(*(repeat(session) for session in at_work))
    return runs * len(at_work) / (time.perf_counter() - began)


async def measure(plan: Plan) -> list[Row]:
    """Blocks of runs, in turn."""
    contestants: list[Contestant] = [
        Kernelsvc(),
        Bare("tcp"),
        JupyterServer(),
        JupyterServer(nodelay=True),
    ]
    runs = plan.amount(50, 10)
    async with running(*contestants), AsyncExitStack() as stack:
        subjects: dict[str, Measure] = {}
        for each in contestants:
            at_work = await stack.enter_async_context(sessions(each, _SESSIONS))
            subjects[each.name] = partial(runs_a_second, at_work, runs)
        samples = await interleaved(plan.rounds_of(10, 3), subjects)
    return rows("throughput", samples, "kernelsvc", unit="runs/s", scale=1)

"""Many sessions asked for at once: until the last of them has its first result."""

import asyncio
import math
import time
from functools import partial

from tests.benchmarks.contestants.base import Contestant, RunFailed, Session, running
from tests.benchmarks.contestants.jupyter_server import JupyterServer
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.rounds import interleaved


async def seconds_to_all(contestant: Contestant, count: int) -> float:
    """Seconds, infinity where a session did not answer; they are ended behind that."""
    made: list[Session] = []

    async def one() -> None:
        made.append(await contestant.first_result())

    began = time.perf_counter()
    outcomes = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
    seconds = time.perf_counter() - began
    await asyncio.gather(*(session.close() for session in made))
    failures = [outcome for outcome in outcomes if outcome is not None]
    if all(isinstance(failure, RunFailed) for failure in failures):
        return math.inf if failures else seconds
    raise BaseExceptionGroup(f"{contestant.name}, {count} sessions at once", failures)


async def measure(plan: Plan) -> list[Row]:
    """Ours and jupyter_server."""
    count = plan.amount(50, 8)
    contestants: list[Contestant] = [Kernelsvc(), JupyterServer()]
    async with running(*contestants):
        subjects = {each.name: partial(seconds_to_all, each, count) for each in contestants}
        samples = await interleaved(plan.rounds_of(3, 1), subjects, warm_up=0)
    return rows(f"burst of {count}", samples, "kernelsvc", unit="s", scale=1)

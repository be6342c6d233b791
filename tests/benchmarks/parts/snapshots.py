"""What snapshots cost runs that come soon behind others: the same session with them and without.

Each holds 50 MB in small objects. A run that comes later than a fork takes has nothing to wait for.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import count

from tests.benchmarks.contestants.base import Session, first_run, running
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.rounds import Measure, interleaved, seconds_of

_WARM_UP = 2
_BLOCK = 20
_HOLD_50_MB = "data = [float(n) for n in range(1_600_000)]"
_numbers = count()


def nothing() -> str:
    """Code that changes nothing."""
    return "pass"


def something() -> str:
    """Code that does next to nothing, and is another each time."""
    return f"x = {next(_numbers)}"


CASES: dict[str, tuple[Callable[[], str], float]] = {
    "pass, back to back": (nothing, 0.0),
    "different code, back to back": (something, 0.0),
    "pass, 10 ms apart": (nothing, 0.01),
    "different code, 10 ms apart": (something, 0.01),
    "different code, 30 ms apart": (something, 0.03),
}


async def _run_after(session: Session, code: Callable[[], str], pause: float) -> float:
    if pause:
        await asyncio.sleep(pause)
    return await seconds_of(session.run, code())


async def measure(plan: Plan) -> list[Row]:
    """Two rows for each case: the ratio is that of runs with snapshots to runs without."""
    found: list[Row] = []
    service = Kernelsvc()
    async with running(service):
        sessions = {
            name: await service.create(snapshots=wanted)
            for name, wanted in (("snapshots", True), ("none", False))
        }
        for session in sessions.values():
            await first_run(session)
            await session.run(_HOLD_50_MB)
        for case, (code, pause) in CASES.items():
            subjects: dict[str, Measure] = {
                f"{case}: {name}": partial(_run_after, session, code, pause)
                for name, session in sessions.items()
            }
            samples = await interleaved(plan.rounds_of(30, 3), subjects, _WARM_UP, _BLOCK)
            found += rows("snapshots", samples, f"{case}: snapshots", tails=True)
    return found

"""What output costs: much of it, in one piece, in many pieces, and the neighbours of who makes it.

The yardstick is the same code in `python -c`, its output through a pipe to `cat > /dev/null`.
"""

import asyncio
import math
import shlex
import sys
from functools import partial

from tests.benchmarks.contestants.base import RunFailed, Session, running, sessions
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc, KernelsvcSession
from tests.benchmarks.figures import Row, percentile, rows, single
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import peak_rss_bytes
from tests.benchmarks.rounds import interleaved, seconds_of

_TIMEOUT_SECONDS = 120
_LINE = 100  # bytes, its end included
_MEBIBYTE = 1 << 20
_COMPUTE = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass"


async def piped(code: str) -> None:
    """Run the code in a fresh interpreter, its output to cat."""
    process = await asyncio.create_subprocess_shell(
        f"{shlex.join([sys.executable, '-c', code])} | cat > /dev/null"
    )
    if await process.wait() != 0:
        raise RunFailed("cat failed")


async def seconds_or_never(session: KernelsvcSession, code: str) -> float:
    """How long a run takes; infinite for one that fails or takes more than two minutes."""
    try:
        return await seconds_of(session.run, code, timeout=_TIMEOUT_SECONDS)
    except RunFailed as error:
        print(f"output: {str(error)[:300]}", file=sys.stderr)
        return math.inf


async def neighbours(ours: Kernelsvc, plan: Plan, flood_code: str) -> list[Row]:
    """What `pass` takes while another session floods, or only computes, and while none does."""
    beside: dict[str, tuple[str, list[float]]] = {
        "another session floods": (flood_code, []),
        "another computes": (_COMPUTE, []),
    }
    quiet: list[float] = []

    async def runs(session: Session, count: int) -> list[float]:
        return [await seconds_of(session.run, "pass") for _ in range(count)]

    async with sessions(ours, 2) as (neighbour, other):
        assert isinstance(other, KernelsvcSession)
        for _ in range(plan.rounds_of(5, 2)):
            quiet += await runs(neighbour, plan.amount(200, 50))
            for code, seconds in beside.values():
                async with asyncio.TaskGroup() as group:
                    busy = group.create_task(other.run(code, timeout=_TIMEOUT_SECONDS))
                    while not busy.done():
                        seconds += await runs(neighbour, 5)
    rest = percentile(quiet, 99)
    return [
        *(
            _tails(f"kernelsvc, {what}", seconds, percentile(seconds, 99) / rest)
            for what, (_, seconds) in beside.items()
        ),
        _tails("kernelsvc, none does", quiet, None),
    ]


def _tails(subject: str, seconds: list[float], ratio: float | None) -> Row:
    p50, p95, p99 = (percentile(seconds, percent) * 1e3 for percent in (50, 95, 99))
    title = "output: `pass` beside it (ratio: p99 to that beside none)"
    return Row(title, subject, "ms", len(seconds), p50, p95, p99, ratio)


async def measure(plan: Plan) -> list[Row]:
    """Times of the three kinds of output, the neighbour's, and the service's peak memory."""
    megabytes = plan.amount(100, 10)
    lines = megabytes * 1_000_000 // _LINE
    prints = plan.amount(1_000_000, 100_000)
    in_lines = f"line = 'x' * {_LINE - 1}\nfor _ in range({lines}): print(line)"
    codes = {
        f"{megabytes} MB in lines": in_lines,
        f"{megabytes} MB in one line": f"print('x' * {megabytes * 1_000_000})",
        f"{prints:,} tiny prints": f"for _ in range({prints}): print('x')",
    }
    ours = Kernelsvc()
    table: list[Row] = []
    async with running(ours):
        async with sessions(ours) as (session,):
            assert isinstance(session, KernelsvcSession)
            for title, code in codes.items():
                samples = await interleaved(
                    plan.rounds_of(3, 1),
                    {
                        ours.name: partial(seconds_or_never, session, code),
                        "python -c | cat": partial(seconds_of, piped, code),
                    },
                    warm_up=0,
                )
                table += rows(f"output: {title}", samples, ours.name, unit="s", scale=1)
        table += await neighbours(ours, plan, in_lines)
        peak = peak_rss_bytes(ours.pid) / _MEBIBYTE
        table.append(single("output: memory", "kernelsvc, peak of the service", peak, "MiB"))
    return table

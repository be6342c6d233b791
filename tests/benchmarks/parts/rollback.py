"""A hundred timeouts in a row, of code that heeds no interrupt: each is rolled back, nothing grows.

The session holds an array of 1 GB and a counter. Each run that times out overwrites both, and then
blocks in C, in one of several ways. Fails where one of them is not as it was before, or where the
session holds more processes, or more memory for each rollback, than it may.
"""

import asyncio
import time

from tests.benchmarks.contestants.base import running
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc, KernelsvcSession
from tests.benchmarks.figures import Row, percentile, single
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import descendants, pss_bytes

_MEBIBYTE = 1 << 20
_TIMEOUT = 0.2
_GRACE = 0.1
_SETTLE_SECONDS = 5.0
_QUIET_SECONDS = 0.25
_MOST_GROWTH = 0.05
"""MiB for each rollback and the two runs beside it, of which IPython keeps some KiB."""

_DEAF = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})\n"
BLOCKS = (
    "import ctypes\nwhile True: ctypes.PyDLL(None).sleep(60)",
    "import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)",
    _DEAF + "import re; re.match('(a+)+$', 'a' * 40 + 'b')",
    _DEAF + "import time; time.sleep(60)",
)
"""The interrupt is not heeded by any of these; two do not heed the termination either."""


class NotRolledBack(Exception):
    """A timeout has cost something, or the session holds more than before."""


async def _time_out(session: KernelsvcSession, code: str) -> None:
    answer = await session.answer_to(
        f"n = -1; data[:] = 0; extra = [n] * 100_000\n{code}", timeout=_TIMEOUT
    )
    if (answer["exit_code"], answer["memory"]) != (124, "restored"):
        raise NotRolledBack(f"{code!r}: {answer}")


async def _held(service: Kernelsvc, usual: int | None = None) -> tuple[int, int]:
    """How many processes there are, and their memory, once they do not change any more.

    They had the time to be as many as usual.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        before = set(descendants(service.pid))
        # Longer than a kernel takes to make its snapshot, and to collect the one before.
        await asyncio.sleep(_QUIET_SECONDS)
        memory = pss_bytes(before)
        now = set(descendants(service.pid))
        as_usual = now == before and len(now) == (usual or len(now))
        if as_usual or time.monotonic() > deadline:
            return len(now), memory


async def measure(plan: Plan) -> list[Row]:
    """How long a rollback takes, and what each adds; raises NotRolledBack."""
    rounds = plan.rounds_of(100, 8)
    size = plan.amount(1 << 30, 100 << 20)
    service = Kernelsvc(pool_max=0, interrupt_grace=_GRACE, terminate_grace=_GRACE)
    late, usable, memory = list[float](), list[float](), list[int]()
    async with running(service):
        session = await service.create(limits={"memory": "4GiB"})
        await session.run(
            "import numpy as np; n = 0\n"
            f"data = np.random.default_rng(1).integers(1 << 62, size={size // 8})\n"
            "check = int(data.sum())"
        )
        usual, _ = await _held(service)
        for number in range(1, rounds + 1):
            await session.run("n += 1")
            began = time.perf_counter()
            await _time_out(session, BLOCKS[number % len(BLOCKS)])
            late.append(time.perf_counter() - began - _TIMEOUT)
            found = await session.run("print(n, int(data.sum()) == check, 'extra' in globals())")
            usable.append(time.perf_counter() - began - _TIMEOUT)
            if found != f"{number} True False\n":
                raise NotRolledBack(f"after {number} timeouts: {found}")
            processes, held = await _held(service, usual)
            if processes != usual:
                raise NotRolledBack(f"{usual} processes, and {processes} after {number} timeouts")
            memory.append(held)
    half = len(memory) // 2
    growth = (memory[-1] - memory[half]) / (len(memory) - half - 1 or 1) / _MEBIBYTE
    if growth > _MOST_GROWTH:
        raise NotRolledBack(f"the session grows by {growth:.2f} MiB with each timeout")
    told = f"{rounds} timeouts, {size / _MEBIBYTE:.0f} MiB"
    return [
        single("rollback", f"{told}: answer late by", percentile(late, 50) * 1e3, "ms"),
        single("rollback", f"{told}: usable again after", percentile(usable, 50) * 1e3, "ms"),
        single("rollback", f"{told}: PSS at first", memory[0] / _MEBIBYTE, "MiB"),
        single("rollback", f"{told}: PSS in the end", memory[-1] / _MEBIBYTE, "MiB"),
        single("rollback", f"{told}: more with each, second half", growth, "MiB"),
    ]

"""`while True: pass` with a timeout of 1 s: how late the answer is, and when the next run has its.

Each round gives two values for each subject: seconds over the deadline at which the answer came,
and seconds from that deadline to the result of a run sent as soon as the answer was here. The
deadline is one second after the request was sent, so its way to the kernel is in both.
"""

import asyncio
import time

from tests.benchmarks.contestants.bare import Bare
from tests.benchmarks.contestants.base import RunFailed, first_run, running
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc, KernelsvcSession
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.parts.create import seconds_to_first_result
from tests.benchmarks.plan import Plan
from tests.benchmarks.rounds import Measure, interleaved

_TIMEOUT_SECONDS = 1.0
_ENDLESS = "while True: pass"


async def ours_after_timeout(session: KernelsvcSession, late: list[float]) -> float:
    """Seconds from the deadline to the next result; those to the answer go to `late`."""
    deadline = time.perf_counter() + _TIMEOUT_SECONDS
    answer = await session.answer_to(_ENDLESS, timeout=_TIMEOUT_SECONDS)
    late.append(time.perf_counter() - deadline)
    if answer["exit_code"] != 124:
        raise RunFailed(f"a run that timed out ended with {answer['exit_code']}")
    await first_run(session)
    return time.perf_counter() - deadline


async def measure(plan: Plan) -> list[Row]:
    """Ours with both ways to go on, a client that interrupts by itself, and a cold start."""
    ours, bare = Kernelsvc(), Bare("tcp")
    async with running(ours, bare):
        restarted = await ours.create(on_timeout="restart")
        interrupted = await ours.create(on_timeout="interrupt")
        kernel = await bare.create()
        for session in (restarted, interrupted, kernel):
            await first_run(session)
        late: dict[str, list[float]] = {name: [] for name in ("restart", "interrupt", "bare")}

        async def bare_after_interrupt() -> float:
            deadline = time.perf_counter() + _TIMEOUT_SECONDS
            request_id = kernel.send(_ENDLESS)
            await asyncio.sleep(deadline - time.perf_counter())
            await kernel.interrupt()
            await kernel.result_of(request_id, raised=True)
            late["bare"].append(time.perf_counter() - deadline)
            await first_run(kernel)
            return time.perf_counter() - deadline

        subjects: dict[str, Measure] = {
            "restart": lambda: ours_after_timeout(restarted, late["restart"]),
            "interrupt": lambda: ours_after_timeout(interrupted, late["interrupt"]),
            "bare": bare_after_interrupt,
            "cold start": lambda: seconds_to_first_result(bare),
        }
        usable = await interleaved(plan.rounds_of(10, 3), subjects)
    in_table = {name: values[1:] for name, values in late.items()}  # without the warm-up
    return [
        *rows("timeout: answer late by", _named(in_table), _NAMES["restart"]),
        *rows("timeout: usable again after", _named(usable), _NAMES["restart"]),
    ]


_NAMES = {
    "restart": "kernelsvc, kernel restarted",
    "interrupt": "kernelsvc, kernel interrupted",
    "bare": "bare client, interrupts itself",
    "cold start": "cold ipykernel start",
}


def _named(samples: dict[str, list[float]]) -> dict[str, list[float]]:
    return {_NAMES[name]: values for name, values in samples.items()}

"""The CPU time that a server uses for 1,000 runs of `pass`, one behind the other."""

from contextlib import AsyncExitStack
from functools import partial

from tests.benchmarks.contestants.base import Session, running, sessions
from tests.benchmarks.contestants.jupyter_server import JupyterServer
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import cpu_seconds, descendants, kernel_processes
from tests.benchmarks.rounds import Measure, interleaved

_KINDS = ("main process", "other processes of the server", "kernels and sandboxes")


def used(pid: int) -> dict[str, float]:
    """CPU seconds so far, by kind of process."""
    kernels = kernel_processes(pid)
    others = set(descendants(pid)) - kernels
    parts = ((pid,), others, kernels)
    return {kind: cpu_seconds(pids) for kind, pids in zip(_KINDS, parts, strict=True)}


async def measure(plan: Plan) -> list[Row]:
    """A row for each kind of process of each server."""
    runs = plan.amount(250, 100)
    contestants = (Kernelsvc(), JupyterServer())
    samples: dict[str, dict[str, list[float]]] = {
        kind: {each.name: [] for each in contestants} for kind in _KINDS
    }

    async def block(name: str, pid: int, session: Session) -> float:
        before = used(pid)
        for _ in range(runs):
            await session.run("pass")
        after = used(pid)
        for kind in _KINDS:
            samples[kind][name].append((after[kind] - before[kind]) * 1000 / runs)
        return samples[_KINDS[0]][name][-1]

    async with running(*contestants), AsyncExitStack() as stack:
        subjects: dict[str, Measure] = {}
        for each in contestants:
            (session,) = await stack.enter_async_context(sessions(each))
            subjects[each.name] = partial(block, each.name, each.pid, session)
        await interleaved(plan.rounds_of(5, 2), subjects, warm_up=0)
    return [
        row
        for kind in _KINDS
        for row in rows(f"cpu, {kind}", samples[kind], "kernelsvc", unit="s/1000 runs", scale=1)
    ]

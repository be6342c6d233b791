"""From asking for a session, or a kernel, to the result of `print(1)` in it."""

import time
from functools import partial

from tests.benchmarks.contestants.bare import Bare
from tests.benchmarks.contestants.base import Contestant, running
from tests.benchmarks.contestants.jupyter_server import JupyterServer
from tests.benchmarks.contestants.kernel_gateway import KernelGateway
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.rounds import interleaved


async def seconds_to_first_result(contestant: Contestant) -> float:
    """Seconds; the session's end is not among them, but nothing else is measured until then."""
    await contestant.settle()
    began = time.perf_counter()
    session = await contestant.first_result()
    seconds = time.perf_counter() - began
    await session.close()
    return seconds


async def measure(plan: Plan) -> list[Row]:
    """A row for each contestant; and what the sandbox adds where no kernel waits."""
    rounds = plan.rounds_of(20, 3)
    ours = Kernelsvc()
    cold = Kernelsvc("kernelsvc, none waits", pool_max=0)
    unsandboxed = Kernelsvc("kernelsvc, none waits, sandbox off", pool_max=0, sandbox="off")
    contestants: list[Contestant] = [
        ours,
        cold,
        unsandboxed,
        JupyterServer(),
        KernelGateway(prespawned=rounds + 1),
        Bare("tcp"),
    ]
    async with running(*contestants):
        subjects = {each.name: partial(seconds_to_first_result, each) for each in contestants}
        samples = await interleaved(rounds, subjects)
    started = {each.name: samples.pop(each.name) for each in (cold, unsandboxed)}
    return [
        *rows("create", samples, ours.name, tails=True),
        *rows("create, a kernel started", started, cold.name, tails=True),
    ]

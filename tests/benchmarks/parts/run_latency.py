"""What a `pass` costs, from sending it until its result and all its output are here."""

from functools import partial

from tests.benchmarks.contestants.bare import Bare
from tests.benchmarks.contestants.base import Contestant, first_run, running
from tests.benchmarks.contestants.fresh_python import FreshPython
from tests.benchmarks.contestants.jupyter_server import JupyterServer
from tests.benchmarks.contestants.kernel_gateway import KernelGateway
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.plan import Plan
from tests.benchmarks.rounds import Measure, interleaved, seconds_of

_WARM_UP = 2
# Runs in a turn. One at a time, the pauses in between would hide what Nagle's algorithm costs: a
# connection that was quiet for a while gets its first acknowledgements at once.
_BLOCK = 10


async def measure(plan: Plan) -> list[Row]:
    """A row for each contestant, with tails."""
    ours = Kernelsvc()
    contestants: list[Contestant] = [
        ours,
        Bare("tcp"),
        Bare("ipc"),
        JupyterServer(),
        JupyterServer(nodelay=True),
        KernelGateway(),
        FreshPython(),
    ]
    async with running(*contestants):
        subjects: dict[str, Measure] = {}
        for contestant in contestants:
            session = await contestant.create()
            await first_run(session)
            subjects[contestant.name] = partial(seconds_of, session.run, "pass")
        samples = await interleaved(plan.rounds_of(60, 6), subjects, _WARM_UP, _BLOCK)
    return rows("run_latency", samples, ours.name, tails=True)

"""From a run sent to a session that sleeps to its result, which takes a new kernel."""

from tests.benchmarks.contestants.base import first_run, running
from tests.benchmarks.contestants.jupyter_server import JupyterServer
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc
from tests.benchmarks.figures import Row, rows
from tests.benchmarks.parts.create import seconds_to_first_result
from tests.benchmarks.plan import Plan
from tests.benchmarks.rounds import interleaved, seconds_of


async def measure(plan: Plan) -> list[Row]:
    """Ours, and the start of a kernel, which is what a peer without sleep would do."""
    ours, peer = Kernelsvc("kernelsvc, wake"), JupyterServer()
    async with running(ours, peer):
        session = await ours.create()

        async def wake() -> float:
            await session.sleep()
            await ours.settle()
            return await seconds_of(first_run, session)

        await first_run(session)
        samples = await interleaved(
            plan.rounds_of(20, 3),
            {
                ours.name: wake,
                "jupyter_server, kernel start": lambda: seconds_to_first_result(peer),
            },
        )
    return rows("wake", samples, ours.name, tails=True)

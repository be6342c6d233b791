"""A live copy of a session that holds a 1 GB array: from the request to its first result.

Beside it the start of a kernel, which has nothing of that yet; and what ten copies cost, in PSS.
"""

from tests.benchmarks.contestants.bare import Bare
from tests.benchmarks.contestants.base import RunFailed, running
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc, KernelsvcSession
from tests.benchmarks.figures import Row, rows, single
from tests.benchmarks.parts.create import seconds_to_first_result
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import descendants, pss_bytes
from tests.benchmarks.rounds import interleaved, seconds_of

_ARRAY = "import numpy; array = numpy.ones(1 << 27)"
_LOOK = "assert array[12345] == 1; print('there')"
_COPIES = 10
_GIGABYTE = 1 << 30


async def measure(plan: Plan) -> list[Row]:
    """Ours, and a cold start."""
    ours, bare = Kernelsvc(memory="6GiB"), Bare("tcp")

    def memory() -> int:
        return pss_bytes([ours.pid, *descendants(ours.pid)])

    async with running(ours, bare):
        source = await ours.create()
        empty = memory()
        await source.run(_ARRAY)

        async def fork() -> float:
            made: list[KernelsvcSession] = []

            async def to_first_result() -> None:
                made.extend(await source.fork(1))
                if "there" not in await made[0].run(_LOOK):
                    raise RunFailed("the copy has not what it should have")

            seconds = await seconds_of(to_first_result)
            await made[0].close()
            await ours.settle()
            return seconds

        samples = await interleaved(
            plan.rounds_of(20, 3),
            {ours.name: fork, "cold ipykernel start": lambda: seconds_to_first_result(bare)},
        )
        one = memory() - empty
        copies = await source.fork(_COPIES)
        for copy in copies:
            await copy.run(_LOOK)
        added = memory() - empty - one
    return [
        *rows("fork, 1 GB in memory: usable after", samples, ours.name, tails=True),
        single(f"fork, PSS of {_COPIES} copies", ours.name, added / _GIGABYTE, "GiB"),
        single(
            f"fork, PSS of {_COPIES} copies",
            "as many sessions of their own",
            one * _COPIES / _GIGABYTE,
            "GiB",
            than=added / _GIGABYTE,
        ),
    ]

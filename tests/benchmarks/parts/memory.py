"""What sessions hold when they do nothing.

A session's memory is the slope from ten sessions to more, of all processes that sessions add, in
PSS: a page that several processes share counts in parts.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack

from tests.benchmarks.contestants.bare import Bare
from tests.benchmarks.contestants.base import Contestant, Session, running, sessions
from tests.benchmarks.contestants.kernelsvc_http import Kernelsvc, KernelsvcSession
from tests.benchmarks.figures import Row, single
from tests.benchmarks.plan import Plan
from tests.benchmarks.processes import cpu_seconds, descendants, pss_bytes, rss_bytes

_MEBIBYTE = 1 << 20


async def slope(
    stack: AsyncExitStack,
    contestant: Contestant,
    counts: tuple[int, int],
    pids: Callable[[], Iterable[int]],
) -> tuple[float, list[Session]]:
    """MiB for each session above the first count, and the sessions, which the stack ends."""
    few, many = counts
    made = list(await stack.enter_async_context(sessions(contestant, few)))
    before = pss_bytes(pids())
    made += await stack.enter_async_context(sessions(contestant, many - few))
    return (pss_bytes(pids()) - before) / (many - few) / _MEBIBYTE, made


async def measure(plan: Plan) -> list[Row]:
    """Idle and sleeping sessions, the service itself, and plain kernels."""
    counts = (plan.amount(10, 3), plan.amount(30, 8))
    idle_seconds = plan.amount(10, 3)
    many = plan.amount(100, counts[1])
    ours, bare = Kernelsvc(max_kernels=max(200, 2 * many)), Bare("tcp")

    def everything() -> list[int]:
        return [ours.pid, *descendants(ours.pid)]

    async with running(ours), AsyncExitStack() as stack:
        await _one_life(ours)
        empty = pss_bytes([ours.pid])
        per_session, made = await slope(stack, ours, counts, everything)
        made += await stack.enter_async_context(sessions(ours, many - len(made)))
        rss = rss_bytes(ours.pid) / _MEBIBYTE
        await ours.settle()
        kernels = descendants(ours.pid)
        before = cpu_seconds([ours.pid]), cpu_seconds(kernels)
        await asyncio.sleep(idle_seconds)
        service_cpu = (cpu_seconds([ours.pid]) - before[0]) / idle_seconds
        kernels_cpu = (cpu_seconds(kernels) - before[1]) / idle_seconds
        for session in made:
            assert isinstance(session, KernelsvcSession)
            await session.sleep()
        asleep = (pss_bytes([ours.pid]) - empty) / many / _MEBIBYTE
    async with running(bare), AsyncExitStack() as stack:
        plain, _ = await slope(stack, bare, counts, bare.pids)
    idle = f"idle CPU, {many} sessions, {idle_seconds} s"
    return [
        single("memory, PSS each", "kernelsvc, idle session", per_session, "MiB"),
        single("memory, PSS each", "plain ipykernel", plain, "MiB", than=per_session),
        single("memory, PSS each", "kernelsvc, sleeping session", asleep, "MiB"),
        single("memory, RSS", f"kernelsvc, the service with {many}", rss, "MiB"),
        single(idle, "kernelsvc, the service", service_cpu * 100, "% of a core"),
        single(idle, "kernelsvc, kernels and sandboxes", kernels_cpu * 100, "% of a core"),
    ]


async def _one_life(ours: Kernelsvc) -> None:
    """A session that comes and goes, so that what the first one loads does not count."""
    async with sessions(ours):
        pass

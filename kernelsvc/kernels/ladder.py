"""The timeout ladder: interrupt, SIGTERM, SIGKILL, as the contract has it.

A run's clock starts when the kernel starts on its code (a kernel that does not start on it within
`START_PATIENCE` is taken to have started: something of an earlier run keeps it). When it runs out,
the kernel is interrupted and has `interrupt` seconds to unwind; then it gets SIGTERM, so that a
handler of the code's can save and leave, and has `terminate` seconds for that; then SIGKILL. Where
the policy is to keep the kernel and the interrupt ended the run, only the children that the run
started are killed.

The same ladder ends a run that the caller restarts; an interrupt by the caller is its first rung.
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from kernelsvc.kernels.execution import Execution
from kernelsvc.kernels.kernel import Kernel
from kernelsvc.models.event import Replied
from kernelsvc.models.fields import OnTimeout

_NUDGE_SECONDS = 0.1
START_PATIENCE = 10.0
_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class Grace:
    """How long each rung waits, in seconds."""

    interrupt: float
    terminate: float


class Stop(Enum):
    """What somebody else wants of a run that is going on."""

    INTERRUPT = auto()
    END = auto()
    KILL = auto()


class StopSignal:
    """Carries a `Stop` to the run; a stronger one replaces a weaker.

    `interrupt_due` is an interrupt that was not passed on yet. `on_want` is called for each `want`.
    """

    def __init__(self) -> None:
        self.wanted: Stop | None = None
        self.interrupt_due = False
        self.on_want: Callable[[], None] | None = None

    @property
    def needs_force(self) -> bool:
        """Whether more than an interrupt is wanted."""
        return self.wanted not in (None, Stop.INTERRUPT)

    def want(self, stop: Stop) -> None:
        """Ask the run to stop."""
        if self.wanted is None or stop.value > self.wanted.value:
            self.wanted = stop
        self.interrupt_due |= stop is Stop.INTERRUPT
        if self.on_want is not None:
            self.on_want()


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    `reply` is None where the kernel gave none; `returncode` is that of a kernel that ended, None
    where it lives. `complete` is False where some of the output may be missing. `request_id`
    is that of the run's execute request.
    """

    timed_out: bool
    stopped: Stop | None
    reply: Replied | None
    returncode: int | None
    complete: bool
    request_id: str = ""


async def run_to_end(
    kernel: Kernel,
    execution: Execution,
    *,
    timeout: float,
    on_timeout: OnTimeout,
    started_at: float,
    stop: StopSignal,
    grace: Grace,
) -> Ending:
    """Wait until the run has ended, by itself or by force; `started_at` is CLOCK_BOOTTIME."""
    timed_out = not await _wait(kernel, execution, timeout, stop)
    if timed_out:
        await _interrupt(kernel, execution, grace)
        unwound = execution.is_done and not kernel.ended.is_set()
        if unwound and on_timeout is OnTimeout.INTERRUPT and stop.wanted is not Stop.KILL:
            await kernel.process.sweep(started_at)
        else:
            await end(kernel, grace)
    elif stop.wanted is Stop.END:
        await _interrupt(kernel, execution, grace)
        await end(kernel, grace)
    elif stop.wanted is Stop.KILL:
        await end(kernel, Grace(0, 0))
    execution.release()
    ended = kernel.ended.is_set()
    return Ending(
        timed_out=timed_out,
        stopped=None if timed_out else stop.wanted,
        reply=execution.reply,
        returncode=kernel.process.exited.result() if ended else None,
        complete=execution.complete or ended,
        request_id=execution.request_id,
    )


async def _wait(kernel: Kernel, execution: Execution, timeout: float, stop: StopSignal) -> bool:
    """Wait for the run's end or a stop that needs force; False when its time has run out.

    An interrupt by the caller is sent on from here: the run goes on until it has unwound.
    """
    clock = asyncio.get_running_loop().time
    sent_at = clock()
    latest_start = sent_at + START_PATIENCE
    stop.on_want = execution.ring
    while not execution.is_done and not stop.needs_force:
        now, started_at = clock(), execution.started_at
        if started_at is None and now >= latest_start:
            started_at = latest_start
        if started_at is None:
            # One that starts in time has all its time yet: to wake at its start is for nothing.
            start_is_news = stop.interrupt_due or now >= sent_at + timeout
            left = latest_start - now
            await execution.news(left if start_is_news else min(left, timeout), start=start_is_news)
            continue
        if started_at + timeout <= now:
            return False
        if stop.interrupt_due:
            stop.interrupt_due = False
            _signal_interrupt(kernel, execution)
        await execution.news(started_at + timeout - now)
    return True


async def _interrupt(kernel: Kernel, execution: Execution, grace: Grace) -> None:
    _signal_interrupt(kernel, execution)
    await execution.until_done(grace.interrupt)


def _signal_interrupt(kernel: Kernel, execution: Execution) -> None:
    """Send an interrupt, and behind it a signal that means nothing.

    Python looks for signals between two instructions. One that comes behind such a look and before
    a call that waits is not heard of before that call ends, which the other one ends.
    """

    def nudge() -> None:
        if not execution.is_done and not kernel.ended.is_set():
            kernel.process.signal(signal.SIGURG)

    kernel.process.signal(signal.SIGINT)
    asyncio.get_running_loop().call_later(_NUDGE_SECONDS, nudge)


async def end(kernel: Kernel, grace: Grace) -> None:
    """End a kernel: SIGTERM, after `grace.terminate` SIGKILL. Nothing of it is left afterwards."""
    if grace.terminate > 0 and not kernel.ended.is_set():
        kernel.process.signal(signal.SIGTERM)
        await wait_event(kernel.ended, grace.terminate)
    if not kernel.ended.is_set():
        kernel.process.kill()
        await wait_event(kernel.ended, _KILL_SECONDS)
    if not kernel.ended.is_set():
        # Its host does not answer: without the host, the system ends the kernel.
        kernel.process.abandon()
        await wait_event(kernel.ended, _KILL_SECONDS)


async def wait_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event for so long; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True

"""What may run in the main thread at any moment: an interrupt, and handlers of the code's."""

import asyncio
import contextlib
import signal
from _signal import getsignal  # type: ignore[import-not-found]  # no enum for each answer
from collections.abc import Iterator
from typing import Any

from kernelsvc.kernel_host.capture import WRITTEN_SIGNAL

_EVERY = signal.valid_signals()
_SIGNALS = _EVERY - {signal.SIGINT, WRITTEN_SIGNAL}
"""Those that only the session's code has handlers for."""


def code_handles_signals() -> bool:
    """Whether something of the code's may run at any moment in the main thread.

    It could raise in the midst of a message; or print, and so wait for the thread, and the thread
    for the main thread to have sent its message.
    """
    return any(map(callable, map(getsignal, _SIGNALS)))


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Let no handler run meanwhile; what has come is delivered behind.

    What a handler raises in the midst of a fork, Python tells of and goes on: `exit()` would end
    nothing (in what the standard library does at each fork, exceptions count for nothing).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def drop_signals() -> None:
    """Forget what was held back: in a fork, what its parent was to get."""
    while signal.sigtimedwait(_EVERY, 0) is not None:
        pass


@contextlib.contextmanager
def cancelled_on_sigint(cell: asyncio.Future[Any]) -> Iterator[None]:
    """Let SIGINT end a cell that awaits, at once.

    ipykernel 7.4 cancels it by a plain callback, which does not wake a sleeping loop. And where the
    cell's own code is running just now, it is interrupted as any other code would be.
    """
    loop = asyncio.get_running_loop()

    def interrupt(signum: int, frame: Any) -> None:
        if asyncio.current_task(loop) is cell:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(cell.cancel)

    original = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, original)

"""What may run in the main thread at any moment: an interrupt, and handlers of the code's."""

import asyncio
import contextlib
import signal
from _signal import getsignal  # type: ignore[import-not-found]  # no enum for each answer
from collections.abc import Iterator
from typing import Any

from kernelsvc.kernel_host.capture import WRITTEN_SIGNAL

_SIGNALS = signal.valid_signals() - {signal.SIGINT, WRITTEN_SIGNAL}
"""Those that only the session's code has handlers for."""


def code_handles_signals() -> bool:
    """Whether something of the code's may run at any moment in the main thread.

    It could raise in the midst of a message; or print, and so wait for the thread, and the thread
    for the main thread to have sent its message.
    """
    return any(map(callable, map(getsignal, _SIGNALS)))


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

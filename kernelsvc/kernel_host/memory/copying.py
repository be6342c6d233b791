"""The copy of a kernel that writes its namespace, and the kernel that waits for it.

Theory of operation. The copy is a fork: it has every object, and only the thread that forked. It
tells over a pipe what it is working on, and at the end that it is done. What pickles may do
anything: a copy that dies, or gets on no more, was at something that is to blame, and another copy
is made that leaves it out. The copy touches no socket of the kernel's, prints nowhere, and ends
without exit handlers. Where memory runs short, it is the first to go.
"""

import contextlib
import gc
import json
import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

from kernelsvc.kernel_host import processes
from kernelsvc.kernel_host.memory.save import Order, write
from kernelsvc.kernel_host.memory.state import Baseline, read_parts

_MOST_COPIES = 4
_STUCK_SHARE = 0.5
_PATIENCE = 2.0
_FIRST_TO_GO = "1000"

os_exit = os._exit


class NotSaved(Exception):
    """Nothing was written; says why."""


def save(shell: Any, baseline: Baseline, order: Order) -> None:
    """Have a copy of this process write what the order says; raises NotSaved.

    Waits for it, a little longer than the order's time at most. An exception meanwhile, such as an
    interrupt, ends the copy.
    """
    until = time.monotonic() + order.seconds
    # Not in the copy: Python gives each fork random numbers of its own.
    parts = read_parts(shell, baseline)
    without: dict[str, str] = {}
    for _ in range(_MOST_COPIES):
        left = until - time.monotonic()
        copy = _Copy(shell, parts, replace(order, seconds=left), without)
        try:
            reason = copy.wait(until + _PATIENCE, order.seconds * _STUCK_SHARE)
        finally:
            copy.end()
        if reason is None:
            return
        if copy.at is None or copy.at in without or until - time.monotonic() < left / 8:
            raise NotSaved(reason)
        without[copy.at] = reason
    raise NotSaved(reason)


class _Copy:
    """A fork of this process that writes; `at` is what it was last heard to be working on."""

    def __init__(
        self, shell: Any, parts: dict[str, Any], order: Order, without: dict[str, str]
    ) -> None:
        self.at: str | None = None
        self._said = b""
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            with warnings.catch_warnings():
                # Python from 3.12 on warns of forks where there are threads.
                warnings.simplefilter("ignore")
                self._pid = os.fork()
            if self._pid == 0:
                _be_copy(writer, lambda at: write(shell, parts, order, at, without))
        finally:
            os.close(writer)

    def wait(self, until: float, stuck: float) -> str | None:
        """None once it has written everything; else why it has not."""
        while True:
            left = min(until - time.monotonic(), stuck)
            if left <= 0:
                return "to write it took too long"
            if not select.select([self._reader], [], [], left)[0]:
                return "to write it took too long"
            for told in self._read():
                match told:
                    case ["at", str(name)]:
                        self.at = name
                    case ["done"]:
                        return None
                    case ["failed", str(reason)]:
                        self.at = None
                        return reason
                    case None:
                        return self._how_it_died()

    def _how_it_died(self) -> str:
        with contextlib.suppress(OSError):
            _, status = os.waitpid(self._pid, 0)
            if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
                return "the process that was to write it was killed, as when memory runs out"
        return "the process that was to write it died"

    def _read(self) -> Iterator[Any]:
        data = os.read(self._reader, 1 << 16)
        *lines, self._said = (self._said + data).split(b"\n")
        yield from map(json.loads, lines)
        if not data:
            yield None

    def end(self) -> None:
        """Kill it, if it is still there."""
        os.close(self._reader)
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.waitpid(self._pid, 0)


def _be_copy(told: int, work: Callable[[Callable[[str], None]], object]) -> NoReturn:
    def tell(*what: str) -> None:
        os.write(told, json.dumps(what).encode() + b"\n")

    try:
        processes.die_with_parent()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN if signum == signal.SIGINT else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        gc.disable()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(_FIRST_TO_GO)
        work(lambda name: tell("at", name))
        tell("done")
    except OSError as error:
        tell("failed", f"it could not be written: {error.strerror}")
    except BaseException as error:  # noqa: BLE001  # nothing of the kernel's own may run here
        traceback.print_exc()
        tell("failed", f"it could not be written: {type(error).__name__}")
    finally:
        os_exit(0)

"""A copy of the kernel that waits behind a run, to be the kernel should that one be lost.

Theory of operation. When a run has ended and its answer is out, the kernel forks. The child does
nothing but wait: its memory is the session's as the run has left it, shared with the kernel until
one of them writes. There is one at a time, of the latest run; the next run does not begin before it
was taken. The kernel forks in a callback of its event loop, with nothing of the loop's own below
it; a snapshot that is told to be the kernel leaves the loop by an exception (`Promoted`), so that
one which is promoted for the hundredth time runs no deeper than the first. `KernelApp` gives it new
sockets and threads; the shell, the kernel object, the output are those that the code has known.

Back to back, a run waits for the fork, and is slower by what the fork has made shared: some
milliseconds, which are worth it, for it may be the one that hangs. Only code that does nothing at
all (such as a client sends to see how a kernel is) neither waits for one nor has one soon.

What the child does, `waiting` says. `children` keeps it from the code's own `os.wait`.
"""

import asyncio
import contextlib
import functools
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipykernel

from kernelsvc.kernel_host import children, own_threads
from kernelsvc.kernel_host.capture import spare_descriptors
from kernelsvc.kernel_host.hot_pages import HotPages
from kernelsvc.kernel_host.imports import reseed
from kernelsvc.kernel_host.inherited import Descriptors
from kernelsvc.kernel_host.interrupts import signals_held_back
from kernelsvc.kernel_host.waiting import Order, Waiting, fork

SECONDS_BEHIND_NOTHING = 0.03
"""So long behind code that does nothing there is no snapshot; behind other code, at once."""
_DOES_NOTHING = ("", "pass")
SHORT_SECONDS = 0.01
SHORT_CPU_SECONDS = 0.005
"""A run that takes less than both writes to little but what every run writes to."""
REAP_SECONDS = 0.1
"""So long after a snapshot, the host has killed the one before."""
COPYING_SECONDS = 0.05
"""So long behind a snapshot that is for copies, these have the processors."""
_IPYKERNEL = str(Path(ipykernel.__file__).parent)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Promoted(SystemExit):
    """Raised through the event loop of a snapshot that is to be the kernel.

    It serves the connection in `connection_file` and calls `begin` when it does.
    """

    def __init__(self, connection_file: str, begin: Callable[[], None]) -> None:
        super().__init__()
        self.connection_file = connection_file
        self.begin = begin


@dataclass(frozen=True)
class _State:
    """The memory after a run: the id of its request, and up to how many bytes of it are copied.

    One that is taken at once is for copies, which come to be before there is another run.
    """

    run: str
    most: int
    at_once: bool = False


class Snapshots:
    """Takes the snapshots of the kernel in this process; `host` is the socket to their keeper.

    `prepare` is called in a child before it lets go of its descriptors, and returns those to keep;
    `has_forked` in the kernel, with the ids that the system has given for it, the child's first;
    `is_own_socket` tells by its address whether a socket is the kernel's.
    """

    def __init__(
        self,
        host: socket.socket,
        prepare: Callable[[], set[int]],
        has_forked: Callable[[range], None],
        is_own_socket: Callable[[str], bool],
    ) -> None:
        self._host = host
        self._host_pid = os.getppid()
        self._prepare = prepare
        self._has_forked = has_forked
        # There are only the kernel's own, for no code has run yet.
        self._descriptors = Descriptors(is_own_socket)
        self._own_threads = set(threading.enumerate())
        self._due: _State | None = None
        self._latest: _State | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._taken: asyncio.Future[None] | None = None
        self._is_off = False
        self._standing = 0
        self._number = 0
        self._did_nothing = self._was_short = False
        self._began = self._cpu_began = 0.0
        self._hot_pages = HotPages()
        self._of_the_code: list[asyncio.Task[Any]] = []

    def run_ended(self, run: str, most: int | None, *, at_once: bool = False) -> None:
        """A run has ended: take a snapshot soon, or, with `most` None, have none any more."""
        self._was_short = (
            time.monotonic() - self._began < SHORT_SECONDS
            and time.thread_time() - self._cpu_began < SHORT_CPU_SECONDS
        )
        if most is not None:
            waits = self._did_nothing and not at_once
            state = _State(run, most, at_once)
            self._expect(state, SECONDS_BEHIND_NOTHING if waits else 0)
            return
        self._due = self._latest = None
        if not self._is_off:
            self._is_off = True
            self._refuse("", "snapshots are off for this session")

    def other_ended(self) -> None:
        """Code of another client has run: what is to be restored has changed with it."""
        if self._latest is not None:
            self._expect(self._latest)

    def _expect(self, state: _State, seconds: float = 0) -> None:
        if self._is_off:
            self._is_off = False
            self._refuse("", "")
        self._due = self._latest = state
        self._again(seconds)

    def _again(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(seconds, self._take)

    async def taken(self, code: str) -> None:
        """Return when the snapshot that is due before this code runs has been taken."""
        own_threads.go_on()
        self._did_nothing = code.strip() in _DOES_NOTHING
        if self._due is not None and self._did_nothing:
            if self._timer is not None:
                self._timer.cancel()
        elif self._due is not None:
            self._taken = asyncio.get_running_loop().create_future()
            self._again(0)
            await self._taken
        self._hot_pages.stop()
        self._began, self._cpu_began = time.monotonic(), time.thread_time()

    def _take(self) -> None:
        """In the event loop, with nothing below: fork, or tell why not."""
        self._timer = None
        state, self._due = self._due, None
        taken, self._taken = self._taken, None
        try:
            if state is not None and (held := _own_memory()) > state.most:
                why = f"the session held {_mebibytes(held)}, and it is taken up to "
                self._refuse(state.run, why + _mebibytes(state.most))
            elif state is not None:
                # In the child, until it is the kernel.
                with signals_held_back():
                    self._fork(state)
        finally:
            if taken is not None and not taken.done():
                taken.set_result(None)

    def _refuse(self, run: str, why: str) -> None:
        """There is no snapshot of the memory after that run; "" for any."""
        self._number += 1
        self._standing = 0
        self._tell({"run": run, "number": self._number, "why": why})
        if children.hidden():
            self._reap_later()

    def _reap_later(self) -> None:
        asyncio.get_running_loop().call_later(REAP_SECONDS, self._reap)

    def _reap(self) -> None:
        """Collect the snapshots that the host has killed, all but the one that stands."""
        children.reap()
        if len(children.hidden()) > self._standing:
            self._reap_later()

    def _tell(self, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._host.send(json.dumps(what).encode(), socket.MSG_DONTWAIT)

    def _fork(self, state: _State) -> None:
        """Raises Promoted: in the child, once it is to be the kernel."""
        children.reap()
        if children.hidden() and self._was_short:
            self._hot_pages.learn()
        without = self._cannot_be_carried()
        # Python gives each child random numbers of its own; this one is to go on with the kernel's.
        numbers = random.getstate()
        self._number += 1
        # Known from here: when the child would ask for its parent, that may be the host by then.
        kernel = os.getpid()
        with spare_descriptors():
            try:
                pid, ids, pair = fork()
            except OSError as error:
                self._refuse(state.run, f"it could not be copied: {error.strerror}")
                return
            if pid == 0:
                self._forget_tasks()
                host = self._host, self._host_pid
                waiting = Waiting(state.run, self._number, *host, self._descriptors)
                order = waiting.begin(kernel, without, self._prepare, *pair)
                begin = functools.partial(self._begin, state, numbers, order)
                raise Promoted(order.connection_file, begin)
        self._stands(ids, state)

    def _forget_tasks(self) -> None:
        """In a fork, which goes on with none of them: those of requests end, of which it has none.

        The code's are kept for ever: to end one would run code of it.
        """
        for task in asyncio.all_tasks(self._loop):
            coroutine = task.get_coro()
            if _is_own(task) and coroutine is not None:
                # Python complains of tasks that are forgotten before they have ended.
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine.close()
            else:
                self._of_the_code.append(task)

    def _stands(self, ids: range, state: _State) -> None:
        """There is a snapshot, the process with the first of these ids; the rest came with it."""
        pid = ids.start
        children.hide(pid)
        self._has_forked(ids)
        self._standing = 1
        self._tell({"forked": pid})
        self._reap_later()
        loop = asyncio.get_running_loop()
        self._hot_pages.copy_soon(loop, COPYING_SECONDS if state.at_once else 0)

    def _cannot_be_carried(self) -> dict[str, int]:
        """How many there are of what no copy has; `Descriptors` knows of more."""
        threads = set(threading.enumerate()) - self._own_threads
        tasks = asyncio.all_tasks()
        waits = sum(1 for task in tasks if _is_own(task))
        return {"thread": len(threads), "asyncio task": len(tasks) - waits}

    def _begin(self, state: _State, numbers: tuple[Any, ...], order: Order) -> None:
        """Begin as the kernel, which can be reached by now; it has a snapshot of itself, too."""
        if order.reseed:
            reseed()
        else:
            random.setstate(numbers)
        self._host, self._number = order.host, order.number
        self._descriptors.know_own()
        self._own_threads = set(threading.enumerate())
        self._taken = self._timer = None
        self._standing = 0
        children.forget()
        loop = asyncio.get_event_loop()
        if order.successor is None:
            loop.call_soon(self._expect, state)
        else:
            ids = range(order.successor, order.successor + 1)
            loop.call_soon(self._stands, ids, state)
        order.told.send(str(os.getpid()).encode())
        order.told.close()


def _is_own(task: "asyncio.Task[Any]") -> bool:
    """Whether it is one of the kernel's, which serves a request."""
    code = getattr(task.get_coro(), "cr_code", None)
    return getattr(code, "co_filename", "").startswith(_IPYKERNEL)


def _own_memory() -> int:
    """Bytes that this process has to itself, or shares with its copies only."""
    with open("/proc/self/statm", "rb") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * _PAGE_BYTES


def _mebibytes(size: int) -> str:
    return f"{size >> 20} MiB"

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

What waits must hold nothing that the world could notice. A socket or a pipe that the code closes
has to be closed, so the child lets go of all but files at once (`inherited`). It is the leader of a
session of its own, which no signal to the kernel's process group reaches, and the system prefers to
kill the kernel where memory runs out. `children` keeps it from the code's own `os.wait`.

It tells the host of itself over a socket that the kernel has from it (`keeper` is the other end),
with the system's word for who it is, and sends along one end of a pair over which it is told to be
the kernel. When that is hung up, it ends: so it never outlives the host.
"""

import asyncio
import contextlib
import functools
import json
import os
import random
import select
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipykernel

from kernelsvc.kernel_host import children, processes
from kernelsvc.kernel_host.capture import spare_descriptors
from kernelsvc.kernel_host.hot_pages import HotPages
from kernelsvc.kernel_host.imports import reseed
from kernelsvc.kernel_host.inherited import Descriptors

SECONDS_BEHIND_NOTHING = 0.03
"""So long behind code that does nothing there is no snapshot; behind other code, at once."""
_DOES_NOTHING = ("", "pass")
SHORT_SECONDS = 0.01
SHORT_CPU_SECONDS = 0.005
"""A run that takes less than both writes to little but what every run writes to."""
REAP_SECONDS = 0.1
"""So long after a snapshot, the host has killed the one before."""
OOM_SCORE = 100
ORPHAN_SECONDS = 5.0
_MAX_ORDER_BYTES = 1 << 16
_MOST_FDS = 2
_IPYKERNEL = str(Path(ipykernel.__file__).parent)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

os_exit = os._exit


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
    """The memory after a run: the id of its request, and up to how many bytes of it are copied."""

    run: str
    most: int


class Snapshots:
    """Takes the snapshots of the kernel in this process; `host` is the socket to their keeper.

    `prepare` is called in a child before it lets go of its descriptors, `has_forked` in the kernel
    with the child's process; `is_own_socket` tells by its address whether a socket is the kernel's.
    """

    def __init__(
        self,
        host: socket.socket,
        prepare: Callable[[], None],
        has_forked: Callable[[int], None],
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
        self._of_processes_before: list[set[asyncio.Task[Any]]] = []

    def run_ended(self, run: str, most: int | None, *, at_once: bool = False) -> None:
        """A run has ended: take a snapshot soon, or, with `most` None, have none any more."""
        self._was_short = (
            time.monotonic() - self._began < SHORT_SECONDS
            and time.thread_time() - self._cpu_began < SHORT_CPU_SECONDS
        )
        if most is not None:
            waits = self._did_nothing and not at_once
            self._expect(_State(run, most), SECONDS_BEHIND_NOTHING if waits else 0)
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
        with spare_descriptors(), contextlib.ExitStack() as in_parent:
            try:
                pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                for one in pair:
                    in_parent.enter_context(one)
                pid = os.fork()
            except OSError as error:
                self._refuse(state.run, f"it could not be copied: {error.strerror}")
                return
            if pid == 0:
                in_parent.pop_all()
                # Python complains of tasks that are forgotten before they have ended.
                self._of_processes_before.append(asyncio.all_tasks(self._loop))
                order, host = self._wait(state, kernel, without, *pair)
                begin = functools.partial(self._begin, state, numbers, order, host)
                raise Promoted(order["connection_file"], begin)
        children.hide(pid)
        self._has_forked(pid)
        self._standing = 1
        self._tell({"forked": pid})
        self._reap_later()
        self._hot_pages.copy_soon(self._loop)

    def _cannot_be_carried(self) -> dict[str, int]:
        """How many there are of what no copy has; `Descriptors` knows of more."""
        threads = set(threading.enumerate()) - self._own_threads
        tasks = asyncio.all_tasks()
        waits = sum(1 for task in tasks if _is_own(task))
        return {"thread": len(threads), "asyncio task": len(tasks) - waits}

    def _wait(
        self,
        state: _State,
        kernel: int,
        without: dict[str, int],
        ours: socket.socket,
        theirs: socket.socket,
    ) -> tuple[dict[str, Any], socket.socket]:
        """In the child: wait to be the kernel, or end where it is not to be.

        The order, and the socket over which the host is told when it is.
        """
        try:
            self._settle()
            self._prepare()
            sockets = (self._host, ours, theirs)
            found = self._descriptors.let_go(keep={one.fileno() for one in sockets})
            without = {**without, **found, "child process": _children_of(kernel)}
            words = _in_words(without)
            told = {"run": state.run, "number": self._number, "without": words}
            socket.send_fds(self._host, [json.dumps(told).encode()], [theirs.fileno()])
            theirs.close()
            while True:
                order, fds, _, _ = socket.recv_fds(ours, _MAX_ORDER_BYTES, _MOST_FDS)
                if not order:
                    os_exit(0)
                what: dict[str, Any] = json.loads(order)
                if "root" not in what:
                    break
                copied = [socket.socket(fileno=fd) for fd in fds]
                if (before := self._fork_copy()) is not None:
                    ours.close()
                    ours = self._move(what, without, before, *copied)
                    break
                for one in copied:
                    one.close()
            self._descriptors.keep_for_code()
            self._stay_with_host()
            processes.set_name("kernel")
            processes.set_oom_score(processes.KERNEL_OOM_SCORE)
        except BaseException:  # noqa: BLE001  # nothing of the kernel's may run twice
            traceback.print_exc()
            os_exit(1)
        return what, ours

    def _settle(self) -> None:
        os.setsid()
        processes.set_name("snapshot")
        processes.set_oom_score(OOM_SCORE)

    def _stay_with_host(self) -> None:
        processes.die_with_parent()
        if os.getppid() != self._host_pid:
            os_exit(1)

    def _fork_copy(self) -> int | None:
        """In a snapshot: fork what is to be a kernel, an orphan soon, which the host adopts.

        None; in the copy, a descriptor of the parent that it is about to lose.
        """
        if (between := os.fork()) > 0:
            os.waitpid(between, 0)
            return None
        before = os.pidfd_open(os.getpid())
        if os.fork() > 0:
            os_exit(0)
        return before

    def _move(
        self,
        order: dict[str, Any],
        without: dict[str, int],
        before: int,
        told: socket.socket,
        host: socket.socket,
    ) -> socket.socket:
        """In a copy: be in its own root directory, and tell the host, the one of its snapshots.

        The host is its parent when the one `before` has ended.
        """
        self._settle()
        # The other one's, which more than this object has.
        self._host.close()
        self._host = host
        lost = self._descriptors.move(order["root"])
        select.select([before], [], [], ORPHAN_SECONDS)
        os.close(before)
        self._stay_with_host()
        told.send(json.dumps({"without": _in_words({**without, **lost})}).encode())
        return told

    def _begin(
        self,
        state: _State,
        numbers: tuple[Any, ...],
        order: dict[str, Any],
        host: socket.socket,
    ) -> None:
        """Begin as the kernel, which can be reached by now; it has a snapshot of itself, too."""
        if order.get("reseed"):
            reseed()
        else:
            random.setstate(numbers)
        self._descriptors.know_own()
        self._own_threads = set(threading.enumerate())
        self._taken = self._timer = None
        self._standing = 0
        children.forget()
        asyncio.get_event_loop().call_soon(self._expect, state)
        host.send(str(os.getpid()).encode())
        host.close()


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


def _children_of(kernel: int) -> int:
    """How many child processes the kernel has, this one and other snapshots left out.

    None where it has gone: they are the host's by now.
    """
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{kernel}/task"):
            with open(f"/proc/{kernel}/task/{thread}/children") as file:
                found.update(map(int, file.read().split()))
    return len(found - children.hidden() - {os.getpid()})


def _in_words(counts: dict[str, int]) -> list[str]:
    """As people say it: 1 thread, 2 child processes."""
    return [
        f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"
        for what, count in counts.items()
        if count > 0
    ]

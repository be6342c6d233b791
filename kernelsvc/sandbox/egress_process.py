"""The service's end of a session's proxy: start it, hear whether it serves, end it.

Two socket pairs. CONTROL joins the service and the proxy: who closes it ends the proxy, and the
proxy's end is seen on it. OFFER joins the inside of the sandbox and the proxy: the sandbox inherits
`fd_for_inside` and sends one listening socket over it. After the start each end is held by one
process only, so each sees the other's end as an end of file:

    service --CONTROL-- proxy --OFFER-- inside

The service holds the inside's end of OFFER only until the sandbox has inherited it. Its end of
CONTROL may be held by a caretaker as well (`kernelsvc.caretaker`): then the proxy outlives the
service, and the next one inherits it.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Self

from kernelsvc.errors import KernelStartFailed
from kernelsvc.sandbox.egress.policy import Policy
from kernelsvc.sandbox.inherited import Inherited

ARGV = (sys.executable, "-s", "-P", "-m", "kernelsvc.sandbox.egress")

_SERVE_SECONDS = 30.0
_EXIT_SECONDS = 5.0
_LONGEST_REPORT = 4096
_LAST_WORDS_BYTES = 4096


class Egress:
    """A running proxy. Made by `spawn`, freed by `close`; `ended` is set once it is gone.

    `fd_for_inside` is the descriptor that the sandbox inherits and `offer_listener` takes there.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes] | Inherited,
        descriptor: int,
        control: socket.socket,
        inside: socket.socket | None,
        stderr: int,
    ) -> None:
        self._process = process
        self._descriptor = descriptor
        self._control = control
        self._inside = inside
        self._stderr = stderr
        self._serves: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serves.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._last_words = b""
        self._tasks = [
            asyncio.create_task(self._read_reports()),
            asyncio.create_task(self._read_stderr()),
        ]
        self.ended = asyncio.Event()

    @classmethod
    async def spawn(cls, policy: Policy, *, prefix: Sequence[str] = ()) -> Self:
        """Start a proxy, by the command `prefix` where one is given.

        Returns when the process runs; see `wait_until_serving`. Raises OSError where it cannot be
        run. Whoever cancels leaves nothing behind.
        """
        with contextlib.ExitStack() as undo:
            control, control_of_proxy = socket.socketpair()
            offer, inside = socket.socketpair()
            for ours in (control, inside):
                undo.callback(ours.close)
            # The proxy reads its policy when it is up; until then the line waits in the socket.
            control.setblocking(False)
            starting = asyncio.ensure_future(
                asyncio.to_thread(_start, [*prefix, *ARGV], control_of_proxy, offer)
            )
            try:
                process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # A thread cannot be called back; it hangs up for us on what it has started.
                starting.add_done_callback(_end_unwanted)
                raise
            assert process.stderr is not None
            stderr = os.dup(process.stderr.fileno())
            process.stderr.close()
            egress = cls(process, os.pidfd_open(process.pid), control, inside, stderr)
            undo.pop_all()
        try:
            await asyncio.get_running_loop().sock_sendall(
                control, policy.to_json().encode() + b"\n"
            )
        except OSError:
            pass  # it is gone already, which `ended` and `wait_until_serving` say
        except BaseException:
            await egress.close()
            raise
        return egress

    @classmethod
    def inherit(cls, fds: Mapping[str, int]) -> Self:
        """A proxy that an earlier service has started, and that serves, by its `lifelines`."""
        descriptor = fds["egress_process"]
        control = socket.socket(fileno=fds["egress_control"])
        control.setblocking(False)
        process = Inherited(os.dup(descriptor))
        egress = cls(process, descriptor, control, None, fds["egress_stderr"])
        egress._serves.set_result(None)
        return egress

    def lifelines(self) -> dict[str, int]:
        """The descriptors that whoever is to hold it needs, by names of their own."""
        held = {
            "egress_process": self._descriptor,
            "egress_control": self._control.fileno(),
            "egress_stderr": self._stderr,
        }
        return {name: fd for name, fd in held.items() if fd >= 0}

    @property
    def pid(self) -> int:
        """The process id of the proxy, or of the prefix where that does not become the proxy."""
        return self._process.pid

    @property
    def fd_for_inside(self) -> int:
        """The descriptor for the sandbox; -1 after `release_inside`."""
        return -1 if self._inside is None else self._inside.fileno()

    def release_inside(self) -> None:
        """Called when the sandbox has inherited `fd_for_inside`: from here on only it has it."""
        if self._inside is not None:
            self._inside.close()

    async def wait_until_serving(self, seconds: float = _SERVE_SECONDS) -> None:
        """Return when the proxy accepts connections on what the inside has offered.

        Nobody has to wait for it: connections made before it wait in the listener's queue. Raises
        KernelStartFailed where the proxy is gone, was offered something else or takes too long.
        """
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._serves)
        except TimeoutError as error:
            raise KernelStartFailed("the way to the internet was not ready in time") from error

    async def close(self) -> None:
        """End the proxy and all of its connections. Returns when it is gone; may be repeated."""
        self.release_inside()
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        try:
            await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._control.close()
            self._end("the proxy was closed")
            self._free()

    def _free(self) -> None:
        """Close what stands for the process; again is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            if isinstance(self._process, Inherited):
                self._process.close()

    async def _read_reports(self) -> None:
        loop = asyncio.get_running_loop()
        received = b""
        reason = "the proxy ended"
        with contextlib.suppress(OSError, ValueError):
            while data := await loop.sock_recv(self._control, _LONGEST_REPORT):
                *lines, received = (received + data)[-_LONGEST_REPORT:].split(b"\n")
                for line in lines:
                    match json.loads(line):
                        case {"ready": True} if not self._serves.done():
                            self._serves.set_result(None)
                        case {"error": str(said)}:
                            reason = said
        # Whether it ended or said what is no report: it is of no use any more.
        self._process.kill()
        await asyncio.to_thread(self._process.wait, _EXIT_SECONDS)
        self._end(reason)

    async def _read_stderr(self) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._stderr, "rb", 0)
        )
        try:
            while chunk := await reader.read(_LAST_WORDS_BYTES):
                self._last_words = (self._last_words + chunk)[-_LAST_WORDS_BYTES:]
        finally:
            self._stderr = -1
            transport.close()

    @property
    def last_words(self) -> str:
        """The end of what the proxy wrote to stderr, which is nothing unless it is broken."""
        return self._last_words.decode(errors="replace").strip()

    def _end(self, reason: str) -> None:
        if not self._serves.done():
            self._serves.set_exception(KernelStartFailed(f"no way to the internet: {reason}"))
        self.ended.set()


def _start(
    argv: list[str], control: socket.socket, offer: socket.socket
) -> subprocess.Popen[bytes]:
    """Run the proxy with its ends of the two pairs, which it alone holds afterwards."""
    with control, offer:
        descriptors = [control.fileno(), offer.fileno()]
        return subprocess.Popen(
            [*argv, *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={},
        )


def _end_unwanted(starting: "asyncio.Future[subprocess.Popen[bytes]]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        process = starting.result()
        process.kill()
        asyncio.get_running_loop().run_in_executor(None, _reap, process)


def _reap(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.wait()

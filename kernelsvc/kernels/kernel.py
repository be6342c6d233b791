"""One live kernel and the requests sent to it.

Theory of operation. A `Kernel` is one process's life: one that replaces another is a new object, so
"the same kernel" means "the same memory". It has one client with one reader per channel. An iopub
message belongs to the run whose execute request is its parent; what comes for a run that has ended
goes to `on_late`.

A run has ended when the reply and the `idle` of its request are here. Either may be lost (code can
break its kernel in many ways), so the other alone ends it after `LOST_SECONDS` without a word.

When the process ends, what it had sent is still in the socket. ZeroMQ reports the disconnect only
behind the last byte, so `ended` comes after every message has been read.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import Session
from zmq.utils.monitor import recv_monitor_message

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels import messages
from kernelsvc.kernels.host import HostedKernel
from kernelsvc.models.event import Event, Idle, Replied, Started

LOST_SECONDS = 1.0
_NUDGE_SECONDS = 0.2
_DISCONNECT_SECONDS = 2.0
_BATCH = 16

EventSink = Callable[[Event], None]
LateSink = Callable[[str, Event], None]


class Execution:
    """One execute request: `started`, `done`; what it says goes to its sink until `release`."""

    def __init__(self, request_id: str, sink: EventSink) -> None:
        self.request_id = request_id
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.reply: Replied | None = None
        self.complete = False
        self.released = False
        self._sink = sink
        self._idle = False
        self._heard_at = time.monotonic()
        self._patience: asyncio.TimerHandle | None = None

    def hear(self, event: Event) -> None:
        """An event of this request has arrived."""
        self._heard_at = time.monotonic()
        match event:
            case Started():
                _resolve(self.started)
            case Idle():
                self._idle = True
                self._conclude()
            case _:
                self._sink(event)

    def hear_reply(self, reply: Replied) -> None:
        """The reply has arrived."""
        self._heard_at = time.monotonic()
        self.reply = reply
        self._conclude()

    def _conclude(self) -> None:
        if self.reply is not None and self._idle:
            self.complete = True
            self.end()
        elif self._patience is None:
            self._wait_for_the_other(LOST_SECONDS)

    def _wait_for_the_other(self, seconds: float) -> None:
        self._patience = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        left = self._heard_at + LOST_SECONDS - time.monotonic()
        if left > 0:
            self._wait_for_the_other(left)
        else:
            self.end()

    def release(self) -> None:
        """Its sink takes nothing more; what still comes is late."""
        self.released = True

    def end(self) -> None:
        """Nothing more is expected, but what a kernel that is being ended may still say."""
        if self._patience is not None:
            self._patience.cancel()
        _resolve(self.started)
        _resolve(self.done)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Kernel:
    """A kernel process that takes execute requests, one at a time. Freed by `close`.

    `on_late` gets what comes for a run that has ended.
    """

    def __init__(
        self,
        manager: AsyncKernelManager,
        process: HostedKernel,
        context: zmq.asyncio.Context,
        on_late: LateSink,
    ) -> None:
        self._manager = manager
        self.process = process
        self.on_late = on_late
        self._context = context
        self._client: AsyncKernelClient
        self._execution: Execution | None = None
        self._heard = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.ended = asyncio.Event()

    async def connect(self) -> None:
        """Attach to the kernel and make sure that its output arrives here.

        A subscription takes effect some time after the connect; until something has come over
        iopub, what the kernel publishes may be lost. So it is nudged, over the control channel,
        which answers while the shell channel is busy. Raises KernelStartFailed where it dies.
        """
        self._client = _client(self._manager, self._context)
        self._client.start_channels(stdin=False, hb=False)
        monitor = self._iopub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._tasks = [
            asyncio.create_task(self._read_iopub()),
            asyncio.create_task(self._read_shell()),
            asyncio.create_task(self._watch(monitor)),
        ]
        while not await self.answers(_NUDGE_SECONDS):
            if self.ended.is_set():
                raise KernelStartFailed(f"it ended with {self.process.exited.result()} at once")

    async def answers(self, seconds: float) -> bool:
        """Whether it is heard of within that time when asked for something over control."""
        self._heard.clear()
        message = self._client.session.msg("kernel_info_request", {})
        self._client.control_channel.send(message)
        await self._either(self._heard, seconds)
        return self._heard.is_set() and not self.ended.is_set()

    @property
    def _iopub(self) -> zmq.asyncio.Socket:
        socket = self._client.iopub_channel.socket
        assert isinstance(socket, zmq.asyncio.Socket)
        return socket

    async def _either(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, the kernel's end or the time to pass."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.ended.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def execute(
        self, code: str, env: dict[str, str], stdin: str | None, sink: EventSink
    ) -> Execution:
        """Send an execute request; `sink` gets what it puts out, as it comes."""
        session = self._client.session
        message = session.msg(
            "execute_request",
            messages.execute_content(code),
            metadata=messages.execute_metadata(env, stdin),
        )
        execution = self._execution = Execution(message["header"]["msg_id"], sink)
        if self.ended.is_set():
            execution.end()
        else:
            self._client.shell_channel.send(message)
        return execution

    def ask_to_leave(self) -> None:
        """Send a shutdown request: the kernel runs its exit handlers and ends."""
        message = self._client.session.msg("shutdown_request", {"restart": False})
        self._client.control_channel.send(message)

    async def _read_iopub(self) -> None:
        while True:
            await self._iopub.poll()
            self._take_iopub(_BATCH)
            # Polling does not yield while there is something to read; a flood would starve others.
            await asyncio.sleep(0)

    def _take_iopub(self, most: float) -> None:
        """Take the messages that are here, `most` of them."""
        direct: zmq.Socket[bytes] = zmq.Socket.shadow(self._iopub)
        with contextlib.suppress(zmq.Again):
            while most > 0:
                self._hear(direct.recv_multipart(zmq.NOBLOCK))
                most -= 1

    def _hear(self, frames: list[Any]) -> None:
        self._heard.set()
        message = messages.unpack(self._client.session, frames)
        request_id = messages.parent_id(message) if message else None
        event = messages.event(message) if message else None
        if event is None or request_id is None:
            return
        execution = self._execution
        if execution and execution.request_id == request_id and not execution.released:
            execution.hear(event)
        else:
            self.on_late(request_id, event)

    async def _read_shell(self) -> None:
        socket = self._client.shell_channel.socket
        assert socket is not None
        while True:
            message = messages.unpack(self._client.session, await socket.recv_multipart())
            if (
                message
                and self._execution
                and messages.parent_id(message) == self._execution.request_id
            ):
                self._execution.hear_reply(messages.reply(message))

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        """Mark the end once the process is gone and everything it sent has been read."""
        disconnected = asyncio.ensure_future(recv_monitor_message(monitor))
        try:
            await asyncio.shield(self.process.exited)
            await asyncio.wait([disconnected], timeout=_DISCONNECT_SECONDS)
            self._take_iopub(math.inf)
        finally:
            disconnected.cancel()
            self._iopub.disable_monitor()
            monitor.close(linger=0)
            self.ended.set()
            if self._execution is not None:
                self._execution.end()

    async def close(self) -> None:
        """Free the sockets and files of a kernel that has ended, or is killed here."""
        if not self.process.exited.done():
            self.process.kill()
            await asyncio.wait([self.process.exited], timeout=_DISCONNECT_SECONDS * 5)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            for channel in ("shell", "iopub", "control"):
                getattr(self._client, f"{channel}_channel").stop()
        await self._manager.cleanup_resources()


def _client(manager: AsyncKernelManager, context: zmq.asyncio.Context) -> AsyncKernelClient:
    """A client with a session id of its own.

    The manager's would be the same ZeroMQ identity as the manager's own sockets, and of two with
    one identity the kernel answers only the later.
    """
    session = Session(key=manager.session.key, signature_scheme=manager.session.signature_scheme)
    return manager.client(session=session, context=context)

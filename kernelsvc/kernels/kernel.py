"""One live kernel and the requests sent to it.

Theory of operation. A `Kernel` is one process's life: one that replaces another is a new object, so
"the same kernel" means "the same memory". It has one socket per channel. An iopub message belongs
to the run whose execute request is its parent; what comes for a run that has ended goes to
`on_late`.

When the process ends, what it had sent is still in the socket. ZeroMQ reports the disconnect only
behind the last byte, so `ended` comes after every message has been read.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.client import KernelClient
from jupyter_client.manager import AsyncKernelManager

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels import messages
from kernelsvc.kernels.channel import Channel, Readers
from kernelsvc.kernels.execution import EventSink, Execution
from kernelsvc.kernels.hosted import HostedKernel
from kernelsvc.models.event import Event, Latest
from kernelsvc.models.memory import MemoryTold

_NUDGE_SECONDS = 0.2
_DISCONNECT_SECONDS = 2.0
_INTERRUPT_SECONDS = 0.1
_HIGH_WATER = 64

LateSink = Callable[[str, Event], None]


class Kernel:
    """A kernel process that takes execute requests, one at a time. Freed by `close`.

    `on_late` gets what comes for a run that has ended. `no_op` is code that does nothing, in the
    kernel's language; None where there is none.
    """

    def __init__(
        self,
        manager: AsyncKernelManager,
        process: HostedKernel,
        context: zmq.asyncio.Context,
        readers: Readers,
        on_late: LateSink,
        *,
        no_op: str | None,
    ) -> None:
        self._manager = manager
        self._no_op = no_op
        self.process = process
        self.on_late = on_late
        self._context = context
        self._readers = readers
        self._session = manager.session
        self._channels: list[Channel] = []
        self._watching: asyncio.Task[None] | None = None
        self._disconnected = asyncio.Event()
        self._execution: Execution | None = None
        self._asked: asyncio.Future[Latest] | None = None
        self._heard = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def connection(self) -> tuple[str, str]:
        """What its sockets' files are called, and the key that messages are signed with."""
        return Path(self._manager.ip).name, self._session.key.decode()

    async def connect(self) -> None:
        """Attach to the kernel and make sure that its output arrives here.

        A subscription takes effect some time after the connect; until something has come over
        iopub, what the kernel publishes may be lost. So it is nudged, over the control channel,
        which answers while the shell channel is busy. Raises KernelStartFailed where it dies.
        """
        self.attach()
        await self.until_heard()

    def attach(self) -> None:
        """Open the channels; nothing can be relied upon before `until_heard`."""
        client = _client(self._manager, self._context)
        identity = self._session.bsession
        self._shell = self._open(client.connect_shell(identity=identity), self._hear_reply)
        self._control = self._open(client.connect_control(identity=identity), self._hear_control)
        self._iopub = self._open(client.connect_iopub(), self._hear)
        monitor = self._iopub.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._open(monitor, lambda frames: self._disconnected.set())
        self._watching = asyncio.create_task(self._watch())

    async def until_heard(self) -> None:
        """Return when it is heard over iopub; raises KernelStartFailed where it has ended."""
        while not await self.answers(_NUDGE_SECONDS):
            if self.ended.is_set():
                raise KernelStartFailed(f"it ended with {self.process.exited.result()} at once")

    async def answers(self, seconds: float) -> bool:
        """Whether it is heard of within that time when asked for something over control."""
        self._heard.clear()
        self._send(self._control, self._session.msg("kernel_info_request", {}))
        await self._either(self._heard, seconds)
        return self._heard.is_set() and not self.ended.is_set()

    def _open(self, socket: "zmq.Socket[bytes]", take: Callable[[list[bytes]], object]) -> Channel:
        channel = Channel(socket, take, self._readers)
        self._channels.append(channel)
        return channel

    def _send(self, channel: Channel, message: dict[str, Any]) -> None:
        channel.send(self._session.serialize(message))

    async def _either(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for the event, the kernel's end or the time to pass."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.ended.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def execute(
        self,
        code: str,
        env: dict[str, str],
        stdin: str | None,
        sink: EventSink,
        note: Callable[[str], None],
        snapshot: int | None = None,
    ) -> Execution:
        """Send an execute request; `sink` gets what it puts out, as it comes.

        `note` is told the request's id before the kernel can have it. Behind it, the kernel takes a
        snapshot of at most `snapshot` bytes of memory, or none.
        """
        metadata = messages.execute_metadata(env, stdin, snapshot)
        return self._send_request(messages.execute_content(code), metadata, sink, note)

    def take_up(self, request_id: str, sink: EventSink, started_at: float) -> Execution:
        """An execute request that an earlier service has sent, so long ago (loop's clock)."""
        execution = self._execution = Execution(request_id, sink)
        execution.started_at = started_at
        return execution

    async def latest(self) -> Latest:
        """Which execute request it works on, or how the latest has ended.

        It answers while it works, unless its code lets no other thread have a word. None may ever
        come: who calls bounds the time.
        """
        self._asked = asyncio.get_running_loop().create_future()
        self._send(self._control, self._session.msg("latest_request", {}))
        return await self._asked

    async def warm_up(self, seconds: float) -> None:
        """Have it run nothing, so long at most: its first run finds in memory what a run needs."""
        if self._no_op is None:
            return
        execution = self._send_nothing(messages.execute_metadata({}, None), self._no_op)
        await execution.until_done(seconds)
        self._execution = None

    async def remember(
        self, asked: dict[str, Any], seconds: float, is_in_vain: Callable[[], bool]
    ) -> MemoryTold | None:
        """Have it save or restore what it holds (`kernel_host.memory.told`).

        None where it ends over it, or says nothing for so long. It is interrupted when that comes
        to be in vain, of which `ring` tells.
        """
        execution = self._send_nothing(messages.memory_metadata(asked))
        deadline = time.monotonic() + seconds
        while not execution.is_done and (left := deadline - time.monotonic()) > 0:
            if is_in_vain():
                # More than once: it may not have come to the request yet.
                self.process.signal(signal.SIGINT)
                left = min(left, _INTERRUPT_SECONDS)
            await execution.news(left)
        self._execution = None
        return execution.memory

    def ring(self) -> None:
        """Let who waits for this kernel look."""
        if self._execution is not None:
            self._execution.ring()

    async def snapshot(self, seconds: float) -> str:
        """Have it take a snapshot of its memory as it is, however much; the id to ask for it by.

        Between runs; raises TimeoutError where the kernel does not get to it in time.
        """
        metadata = messages.execute_metadata({}, snapshot=sys.maxsize, at_once=True)
        execution = self._send_nothing(metadata)
        await execution.until_done(seconds)
        self._execution = None
        if not execution.is_done:
            raise TimeoutError
        return execution.request_id

    def _send_nothing(self, metadata: dict[str, Any], no_op: str = "None") -> Execution:
        nothing = messages.execute_content(no_op, counted=False)
        return self._send_request(nothing, metadata, lambda event: None)

    def _send_request(
        self,
        content: dict[str, Any],
        metadata: dict[str, Any],
        sink: EventSink,
        note: Callable[[str], None] = lambda request_id: None,
    ) -> Execution:
        message = self._session.msg("execute_request", content, metadata=metadata)
        execution = self._execution = Execution(message["header"]["msg_id"], sink)
        note(execution.request_id)
        if self.ended.is_set():
            execution.end()
        else:
            self._send(self._shell, message)
        return execution

    def ask_to_leave(self) -> None:
        """Send a shutdown request: the kernel runs its exit handlers and ends."""
        self._send(self._control, self._session.msg("shutdown_request", {"restart": False}))

    def _hear(self, frames: list[Any]) -> None:
        self._heard.set()
        message = messages.unpack(self._session, frames)
        request_id = messages.parent_id(message) if message else None
        event = messages.event(message) if message else None
        if event is None or request_id is None:
            return
        execution = self._execution
        if execution and execution.request_id == request_id and not execution.released:
            execution.hear(event)
        else:
            self.on_late(request_id, event)

    def _hear_control(self, frames: list[bytes]) -> None:
        if self._asked is None or self._asked.done():
            return
        message = messages.unpack(self._session, frames)
        if message is not None and (latest := messages.latest(message)) is not None:
            self._asked.set_result(latest)

    def _hear_reply(self, frames: list[bytes]) -> None:
        message = messages.unpack(self._session, frames)
        execution = self._execution
        if message and execution and messages.parent_id(message) == execution.request_id:
            execution.hear_reply(messages.reply(message))

    async def _watch(self) -> None:
        """Mark the end once the process is gone and everything it sent has been read."""
        try:
            await asyncio.shield(self.process.exited)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DISCONNECT_SECONDS):
                    await self._disconnected.wait()
            self._iopub.read_all()
        finally:
            self.ended.set()
            if self._execution is not None:
                self._execution.end()

    async def close(self) -> None:
        """Free the sockets and files of a kernel that has ended, or is killed here."""
        if not self.process.exited.done():
            self.process.kill()
            await asyncio.wait([self.process.exited], timeout=_DISCONNECT_SECONDS * 5)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._iopub.socket.disable_monitor()
        for channel in self._channels:
            channel.close()
        await self._manager.cleanup_resources()
        # The manager removes only what it has written: nothing of an earlier service's kernel.
        connection_file = Path(self._manager.connection_file)
        await asyncio.to_thread(connection_file.unlink, missing_ok=True)


def _client(manager: AsyncKernelManager, context: zmq.asyncio.Context) -> KernelClient:
    """What makes the sockets to the manager's kernel."""
    plain: zmq.Context[zmq.Socket[bytes]] = zmq.Context(context)
    plain.setsockopt(zmq.RCVHWM, _HIGH_WATER)
    client = KernelClient(context=plain, session=manager.session)
    client.load_connection_info(manager.get_connection_info())
    return client

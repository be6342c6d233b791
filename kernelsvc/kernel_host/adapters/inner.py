"""Another Jupyter kernel behind the front: Deno's, or any other that is installed.

Theory of operation. The inner kernel listens on 127.0.0.1, which in a sandbox is the sandbox's own,
and this adapter is its only client. A run is up to three requests to it: one that its `Dialect`
makes before (to set variables, say), the code, and one after. What the kernel says while it works
for any of them is said about the run. Some kernels publish results when they have said
that they are idle; what the third request publishes comes behind them.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import zmq
import zmq.asyncio

from kernelsvc.kernel_host.adapters.dialect import Dialect
from kernelsvc.kernel_host.adapters.outlet import Outlet
from kernelsvc.kernel_host.adapters.running import (
    INTERRUPTED,
    Asked,
    Ended,
    Gone,
    Say,
    made_anew,
    say_text,
)
from kernelsvc.kernel_host.processes import NOT_EXECUTABLE, descendants
from kernelsvc.kernel_host.session import KernelSession, pack

_CHANNELS: Final = ("shell", "iopub", "stdin", "control", "hb")
_NUDGE_SECONDS: Final = 0.1
_HIGH_WATER: Final = 10_000
_INTERRUPTED: Final = 128 + signal.SIGINT
_LATE_SECONDS: Final = 1.0
"""So long is what may come behind a reply waited for."""
_MOST_REQUESTS: Final = 100
_PASSED_ON: Final = {
    "stream",
    "display_data",
    "update_display_data",
    "execute_result",
    "clear_output",
    "error",
}


Message = dict[str, Any]


class _Request:
    """A request to the kernel, and whose it is."""

    def __init__(self, say: Say | None, own: bool) -> None:
        self.say = say
        self.own = own
        self.reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.idle = asyncio.Event()


class InnerKernel:
    """A Jupyter kernel that is started by `argv` and interrupted by a `signal` or a `message`."""

    def __init__(
        self, argv: Sequence[str], interrupt_mode: str, dialect: Dialect, directory: Path
    ) -> None:
        self.language: dict[str, Any] = {"name": "unknown"}
        self._argv = argv
        self._interrupt_mode = interrupt_mode
        self._dialect = dialect
        self._directory = made_anew(directory / "work")
        self._context = zmq.asyncio.Context()
        self._session = KernelSession(key=secrets.token_hex(16).encode(), pack=pack)
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self._say: Say | None = None
        self._heard = asyncio.Event()
        self._end, self._end_content = asyncio.Event(), dict[str, Any]()
        self._input: deque[str] = deque()
        self._is_ready = self._is_running = self._interrupted = self._has_told_why = False
        self._outlets: list[Outlet] = []
        self._tasks: list[asyncio.Task[Any]] = []

    # ---- its life

    async def start(self) -> int:
        """Start the kernel; its process id."""
        connection_file = self._connect()
        self._process = await self._spawn(connection_file)
        self._waiting = asyncio.create_task(self._process.wait())
        self._tasks = [
            asyncio.create_task(each)
            for each in (
                self._hear_replies("shell"),
                self._hear_replies("control"),
                self._hear_input_requests(),
                self._hear_iopub(),
            )
        ]
        await self._until_ready()
        written = [self._open_fifo(name) for name in ("stdout", "stderr")]
        if prelude := self._dialect.prelude(*(path for path, _ in written)):
            await self._execute(prelude, own=True)
        for _, writing in written:
            os.close(writing)
        self._is_ready = True
        return self._process.pid

    def _open_fifo(self, name: str) -> tuple[Path, int]:
        """A file for code to write to, and a descriptor that holds it open until others do."""
        path = self._directory / name
        os.mkfifo(path, 0o600)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(path, os.O_WRONLY)
        self._outlets.append(Outlet(reading, partial(self._say_written, name)))
        return path, writing

    def _connect(self) -> Path:
        """Choose ports and write down where they are; the client's sockets are there from now."""
        with contextlib.ExitStack() as stack:
            listening = [stack.enter_context(socket.socket()) for _ in _CHANNELS]
            for each in listening:
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in listening]
        info: dict[str, Any] = {
            "transport": "tcp",
            "ip": "127.0.0.1",
            "key": self._session.key.decode(),
            "signature_scheme": "hmac-sha256",
        }
        kinds = (zmq.DEALER, zmq.SUB, zmq.DEALER, zmq.DEALER, None)
        self._sockets: dict[str, zmq.asyncio.Socket] = {}
        for channel, port, kind in zip(_CHANNELS, ports, kinds, strict=True):
            info[f"{channel}_port"] = port
            if kind is not None:
                client = self._sockets[channel] = self._context.socket(kind)
                client.linger = 0
                client.rcvhwm = _HIGH_WATER
                client.identity = self._session.bsession
                client.connect(f"tcp://127.0.0.1:{port}")
        self._sockets["iopub"].subscribe(b"")
        file = self._directory / "connection.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(info))
        return file

    async def _spawn(self, connection_file: Path) -> asyncio.subprocess.Process:
        argv = [part.replace("{connection_file}", str(connection_file)) for part in self._argv]
        reading, writing = os.pipe()
        self._outlets.append(Outlet(reading, self._say_directly_written))
        try:
            return await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
                env={**os.environ, **self._dialect.environment},
            )
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
            raise Gone(NOT_EXECUTABLE) from error
        finally:
            os.close(writing)

    async def _until_ready(self) -> None:
        """Ask until it answers, and until what it publishes arrives."""
        info = None
        while info is None or not self._heard.is_set():
            reply = self._send("shell", "kernel_info_request", {}, own=True).reply
            await self._reply_or_end(reply, _NUDGE_SECONDS)
            if self._waiting.done():
                os.write(2, f"{self._argv[0]} ended with {self._waiting.result()}\n".encode())
                raise Gone(self._waiting.result())
            info = reply.result() if reply.done() else info
            if info is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_NUDGE_SECONDS):
                        await self._heard.wait()
        self.language = info.get("language_info", self.language)

    async def _reply_or_end(self, reply: "asyncio.Future[Message]", seconds: float | None) -> None:
        futures: list[asyncio.Future[Any]] = [reply, self._waiting]
        await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def wait(self) -> int:
        """How the kernel has ended."""
        return await asyncio.shield(self._waiting)

    async def close(self) -> None:
        """Hear it no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for outlet in self._outlets:
            await outlet.close()
        self._context.destroy()
        shutil.rmtree(self._directory, ignore_errors=True)

    # ---- requests

    def _send(self, channel: str, kind: str, content: dict[str, Any], *, own: bool) -> _Request:
        """Send a request; one of our `own` is not told of where it fails."""
        message = self._session.msg(kind, content)
        request = _Request(self._say, own)
        self._requests[message["header"]["msg_id"]] = request
        while len(self._requests) > _MOST_REQUESTS:
            self._requests.popitem(last=False)
        self._sockets[channel].send_multipart(self._session.serialize(message))
        return request

    async def _execute(
        self, code: str, *, own: bool, counted: bool = False, may_ask: bool = False
    ) -> dict[str, Any]:
        """Have code executed; the content of the reply. Raises Gone."""
        content = {
            "code": code,
            "silent": not counted,
            "store_history": counted,
            "user_expressions": {},
            "allow_stdin": may_ask,
            "stop_on_error": False,
        }
        request = self._send("shell", "execute_request", content, own=own)
        await self._reply_or_end(request.reply, None)
        if not request.reply.done():
            raise Gone(self._waiting.result())
        await _wait(request.idle)
        return request.reply.result()

    async def execute(self, asked: Asked) -> Ended:
        """Run code, and what the dialect has to be run before and after it."""
        self._say, self._has_told_why = asked.say, False
        self._input = deque((asked.stdin or "").splitlines())
        try:
            if before := self._dialect.before(asked):
                await self._execute(before, own=True)
            reply: dict[str, Any] = {"status": "error"}
            if not self._interrupted:
                self._is_running = True
                reply = await self._execute(
                    asked.code, own=False, counted=asked.counted, may_ask=asked.stdin is not None
                )
                self._is_running = False
            ended = await self._ended(asked, reply)
            if after := self._dialect.after():
                self._end, self._end_content = asyncio.Event(), {}
                await self._execute(after, own=True)
                await _wait(self._end)
                ended = self._dialect.ended(ended, self._end_content)
            return ended
        finally:
            self._is_running = self._interrupted = False
            for outlet in self._outlets:
                await outlet.drain()

    async def _ended(self, asked: Asked, reply: dict[str, Any]) -> Ended:
        """How the code has ended by the reply to it; told, where the kernel has not said why."""
        if reply.get("status") == "ok":
            return Ended()
        ended = Ended(1, str(reply.get("ename")), str(reply.get("evalue")))
        why = None
        if self._interrupted:
            ended = Ended(_INTERRUPTED, INTERRUPTED)
            why = {"ename": INTERRUPTED, "evalue": "", "traceback": [INTERRUPTED]}
        elif not self._has_told_why and not self._dialect.is_exit(reply):
            why = await self._dialect.explain(asked.code) or {**reply, "traceback": []}
        if why is not None and not self._has_told_why:
            await asked.say("error", _whole(why))
        return ended

    def interrupt(self) -> None:
        """Interrupt the code, and what it has started and waits for."""
        self._interrupted = True
        if not self._is_running:
            return
        if self._interrupt_mode == "signal":
            self._signal(signal.SIGINT)
            return
        self._send("control", "interrupt_request", {}, own=True)
        for child in descendants(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGINT)

    def end(self, signum: int) -> None:
        """Signal the kernel and its children."""
        self._signal(signum)

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)

    # ---- what it says

    async def _hear(self, channel: str) -> AsyncIterator[tuple[_Request | None, Message]]:
        """Messages of a channel, with the request that each is about."""
        while True:
            frames = await self._sockets[channel].recv_multipart()
            try:
                _, signed = self._session.feed_identities(frames)
                message = self._session.deserialize(signed)
            except (ValueError, KeyError, TypeError):
                continue
            yield self._requests.get(message["parent_header"].get("msg_id")), message

    async def _hear_replies(self, channel: str) -> None:
        async for request, message in self._hear(channel):
            if request is not None and not request.reply.done():
                request.reply.set_result(message["content"])

    async def _hear_input_requests(self) -> None:
        """Give it the lines of the run's stdin, and then empty ones: there is no end to tell of."""
        async for _, message in self._hear("stdin"):
            value = self._input.popleft() if self._input else ""
            answer = self._session.msg("input_reply", {"value": value}, parent=message)
            await self._sockets["stdin"].send_multipart(self._session.serialize(answer))

    async def _hear_iopub(self) -> None:
        async for request, message in self._hear("iopub"):
            self._heard.set()
            kind, content = message["msg_type"], message["content"]
            if kind == "status":
                if request is not None and content.get("execution_state") == "idle":
                    request.idle.set()
            elif self._dialect.is_end(kind):
                self._end_content = content
                self._end.set()
            elif kind in _PASSED_ON:
                await self._pass_on(request, kind, content)

    async def _pass_on(self, request: _Request | None, kind: str, content: dict[str, Any]) -> None:
        say = self._say if request is None else request.say
        is_of_own = request is not None and request.own and kind in ("error", "execute_result")
        if say is None or is_of_own or (kind == "error" and self._dialect.is_exit(content)):
            return
        if kind == "error":
            self._has_told_why = True
            content = _whole(content)
        await say(kind, content)

    async def _say_written(self, name: str, text: str) -> None:
        if self._say is not None:
            await say_text(self._say, name, text)

    async def _say_directly_written(self, text: str) -> None:
        """What kernels write so is for their log; before they are ready, why they do not start."""
        if not self._is_ready:
            os.write(2, text.encode())


async def _wait(event: asyncio.Event) -> None:
    """Wait for what comes behind a reply; it may have been lost."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LATE_SECONDS):
            await event.wait()


def _whole(error: dict[str, Any]) -> dict[str, Any]:
    """The content of an error message, with a traceback that says something."""
    ename, evalue = str(error.get("ename")), str(error.get("evalue"))
    traceback = [line for line in error.get("traceback") or [] if line]
    return {"ename": ename, "evalue": evalue, "traceback": traceback or [f"{ename}: {evalue}"]}

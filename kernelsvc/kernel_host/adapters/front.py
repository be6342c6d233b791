"""The front of an adapter: the sockets of a Jupyter kernel, and what is said over them."""

import asyncio
import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import zmq
import zmq.asyncio

from kernelsvc.kernel_host.adapters.running import Adapter, Asked, Ended, Gone, Say
from kernelsvc.kernel_host.latest import LATEST_REQUEST, LatestRun
from kernelsvc.kernel_host.session import KernelSession, pack
from kernelsvc.kernel_host.wire import METADATA_KEY

_PROTOCOL: Final = "5.4"
_HIGH_WATER: Final = 64
_LINGER_MS: Final = 1000
_FULL_SECONDS: Final = 0.002
"""So long is waited before a message is sent again where the service has left too many unread."""
_LEAVE_SECONDS: Final = 0.5
"""So long does what does the work have for an end in good order, when it is asked for one."""
_NOTHING_TO_SAY: Final[dict[str, dict[str, Any]]] = {
    "comm_info_request": {"comms": {}},
    "complete_request": {"matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {}},
    "history_request": {"history": []},
    "inspect_request": {"found": False, "data": {}, "metadata": {}},
    "is_complete_request": {"status": "unknown"},
}
"""What front-ends ask for that an adapter has nothing to say to."""


class Front:
    """Serves one adapter until it ends, or is asked to shut down."""

    def __init__(self, connection_file: str, adapter: Adapter) -> None:
        info = json.loads(Path(connection_file).read_text())
        self._adapter = adapter
        self._session = KernelSession(
            key=info["key"].encode(), signature_scheme=info["signature_scheme"], pack=pack
        )
        self._context = zmq.asyncio.Context()
        self._shell = self._bind(zmq.ROUTER, info, "shell")
        self._control = self._bind(zmq.ROUTER, info, "control")
        self._heartbeat = self._bind(zmq.REP, info, "hb")
        self._stdin = self._bind(zmq.ROUTER, info, "stdin")
        self._iopub = self._bind(zmq.PUB, info, "iopub")
        self._count = 0
        self._is_executing = False
        self._latest = LatestRun()
        self._leaving = asyncio.Event()
        self._publishing = asyncio.Lock()

    def _bind(self, kind: int, info: dict[str, Any], channel: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.linger = _LINGER_MS
        if kind == zmq.PUB:
            # Who reads slowly is waited for: nothing is dropped.
            socket.sndhwm = _HIGH_WATER
            socket.set(zmq.XPUB_NODROP, 1)
        joint = "-" if info["transport"] == "ipc" else ":"
        socket.bind(f"{info['transport']}://{info['ip']}{joint}{info[f'{channel}_port']}")
        return socket

    async def serve(self, announce: Callable[[int | None], None]) -> int:
        """The return code to end with; `announce` is told who does the work, once it can."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            worker = await self._adapter.start()
            loop.add_signal_handler(signal.SIGTERM, self._adapter.end, signal.SIGTERM)
            announce(worker)
            return await self._serve()
        except Gone as gone:
            return gone.returncode
        finally:
            await self._adapter.close()
            self._context.destroy()

    async def _serve(self) -> int:
        """Until what does the work has ended, which is also how this ends."""
        ending = asyncio.create_task(self._adapter.wait())
        leaving = asyncio.create_task(self._leaving.wait())
        serving = [
            asyncio.create_task(each)
            for each in (self._requests(self._shell), self._requests(self._control), self._beat())
        ]
        everything = [ending, leaving, *serving]
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
            for task in serving:
                if task.done():
                    task.result()
            return ending.result() if ending.done() else 0
        finally:
            for each in everything:
                each.cancel()
            await asyncio.gather(*everything, return_exceptions=True)

    def _interrupt(self) -> None:
        if self._is_executing:
            self._adapter.interrupt()

    async def _beat(self) -> None:
        while True:
            await self._heartbeat.send_multipart(await self._heartbeat.recv_multipart())

    async def _requests(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            try:
                idents, signed = self._session.feed_identities(frames)
                request = self._session.deserialize(signed)
            except (ValueError, KeyError, TypeError):
                continue
            # Who hears that it is busy may interrupt it.
            is_execution = request["msg_type"] == "execute_request"
            self._is_executing |= is_execution
            await self._publish(request, "status", {"execution_state": "busy"})
            content: dict[str, Any] | None
            ended: dict[str, Any] | None = None
            if is_execution:
                self._latest.begin(request)
                content, ended = await self._execute(request)
                self._latest.end(request, ended or {})
            else:
                content = self._answer(request["msg_type"])
            # How a run of the service's has ended is in its `idle`.
            if content is not None and ended is None:
                kind = request["msg_type"].replace("_request", "_reply")
                reply = self._session.msg(kind, content, parent=request)
                await socket.send_multipart([*idents, *self._session.serialize(reply)])
            await self._publish(request, "status", {"execution_state": "idle"}, ended)

    def _answer(self, kind: str) -> dict[str, Any] | None:
        """The content of the reply to a request that is soon done; None: there is none."""
        match kind:
            case "kernel_info_request":
                return {
                    "status": "ok",
                    "protocol_version": _PROTOCOL,
                    "implementation": "kernelsvc",
                    "implementation_version": "1",
                    "language_info": self._adapter.language,
                    "banner": "",
                }
            case _ if kind == LATEST_REQUEST:
                return self._latest.told()
            case "interrupt_request":
                self._interrupt()
                return {"status": "ok"}
            case "shutdown_request":
                asyncio.get_running_loop().call_soon(self._shut_down)
                return {"status": "ok", "restart": False}
            case _ if kind in _NOTHING_TO_SAY:
                return {"status": "ok", **_NOTHING_TO_SAY[kind]}
            case _:
                return None

    def _shut_down(self) -> None:
        self._adapter.end(signal.SIGTERM)
        asyncio.get_running_loop().call_later(_LEAVE_SECONDS, self._leaving.set)

    async def _execute(self, request: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The content of the reply, and for a run of the service how it has ended."""
        content, metadata = request["content"], request["metadata"].get(METADATA_KEY)
        wanted = metadata or {}
        counted = not content["silent"]
        self._count += counted
        say: Say = partial(self._publish, request)
        asked = Asked(content["code"], say, wanted.get("env") or {}, wanted.get("stdin"), counted)
        try:
            ended = await self._adapter.execute(asked)
        finally:
            self._is_executing = False
        said: dict[str, Any] = {
            "status": "ok" if ended == Ended() else "error",
            "ename": ended.ename,
            "evalue": ended.evalue,
            "traceback": [],
            "execution_count": self._count,
            "exit_code": ended.exit_code,
        }
        reply: dict[str, Any] = {**said, "payload": [], "user_expressions": {}}
        return reply, None if metadata is None else said

    async def _publish(
        self, about: Any, kind: str, content: dict[str, Any], ended: dict[str, Any] | None = None
    ) -> None:
        if kind == "execute_result":
            content = {**content, "execution_count": self._count}
        metadata = None if ended is None else {METADATA_KEY: ended}
        message = self._session.msg(kind, content, parent=about, metadata=metadata)
        frames = self._session.serialize(message, kind.encode())
        async with self._publishing:
            # ZeroMQ takes a publisher for writable at all times: nothing tells when there is room.
            while True:
                try:
                    await self._iopub.send_multipart(frames, zmq.NOBLOCK)
                    return
                except zmq.Again:
                    await asyncio.sleep(_FULL_SECONDS)

"""Kernels behind the REST API and the websocket that jupyter_server and the kernel gateway share.

Messages go in the binary protocol that JupyterLab speaks, which costs the server less than JSON.
"""

import json
import uuid
from itertools import pairwise
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.benchmarks.contestants.base import Contestant, RunFailed, Session
from tests.benchmarks.contestants.connection import JsonConnection
from tests.benchmarks.contestants.peer_process import PeerProcess

_PROTOCOL = "v1.kernel.websocket.jupyter.org"
_WORD = 8  # bytes of an offset


def packed(channel: str, *parts: dict[str, Any]) -> bytes:
    """A message of these parts (header, parent header, metadata, content) for the websocket."""
    pieces = [channel.encode(), *(json.dumps(part).encode() for part in parts)]
    offsets = [_WORD * (len(pieces) + 2)]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    words = (number.to_bytes(_WORD, "little") for number in (len(offsets), *offsets))
    return b"".join([*words, *pieces])


def unpacked(message: bytes) -> tuple[str, list[bytes]]:
    """The channel and the parts of a message."""
    words = [
        int.from_bytes(message[at : at + _WORD], "little")
        for at in range(0, _WORD * (1 + int.from_bytes(message[:_WORD], "little")), _WORD)
    ]
    offsets = words[1:]
    pieces = [message[a:b] for a, b in pairwise(offsets)]
    return pieces[0].decode(), pieces[1:]


class WebSocketSession(Session):
    """A kernel and a websocket to it."""

    def __init__(
        self, kernel_id: str, rest: JsonConnection, socket: WebSocketClientConnection
    ) -> None:
        self._path = f"/api/kernels/{kernel_id}"
        self._rest = rest
        self._socket = socket
        self._id = uuid.uuid4().hex

    async def run(self, code: str) -> str:
        request_id = uuid.uuid4().hex
        header = {
            "msg_id": request_id,
            "msg_type": "execute_request",
            "session": self._id,
            "username": "",
            "version": "5.3",
        }
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        await self._socket.write_message(packed("shell", header, {}, {}, content), binary=True)
        written = []
        replied = idle = False
        while not (replied and idle):
            message = await self._socket.read_message()
            if not isinstance(message, bytes):
                raise RunFailed(f"the websocket gave {message!r}")
            _, (head, parent, _, body, *_) = unpacked(message)
            if json.loads(parent).get("msg_id") != request_id:
                continue
            answer = json.loads(body)
            match json.loads(head)["msg_type"]:
                case "stream" if answer["name"] == "stdout":
                    written.append(answer["text"])
                case "status":
                    idle = answer["execution_state"] == "idle"
                case "execute_reply":
                    replied = True
                    if answer["status"] != "ok":
                        raise RunFailed(f"the kernel answered {answer}")
        return "".join(written)

    async def close(self) -> None:
        await self._rest.request("DELETE", self._path)
        await self.hang_up()

    async def hang_up(self) -> None:
        """Leave the kernel alone."""
        self._socket.close()
        await self._rest.close()


class WebSocketPeer(Contestant):
    """A server of kernels."""

    def __init__(self) -> None:
        self._server = PeerProcess()

    @property
    def pid(self) -> int:
        """The server's main process."""
        return self._server.pid

    async def stop(self) -> None:
        await self._server.stop()

    async def create(self) -> WebSocketSession:
        rest = await self.rest()
        return await self.connected(await self.kernel(rest), rest)

    async def rest(self) -> JsonConnection:
        """A new connection for the REST API."""
        return await JsonConnection(self._server.host, self._server.port).open()

    async def connected(self, kernel_id: str, rest: JsonConnection) -> WebSocketSession:
        """A websocket to a kernel."""
        address = f"{self._server.host}:{self._server.port}"
        url = f"ws://{address}/api/kernels/{kernel_id}/channels"
        socket = await websocket_connect(
            HTTPRequest(url, connect_timeout=120, request_timeout=120),
            subprotocols=[_PROTOCOL],
            max_message_size=1 << 30,
        )
        if socket.selected_subprotocol != _PROTOCOL:
            raise RunFailed(f"the server speaks {socket.selected_subprotocol!r}")
        return WebSocketSession(kernel_id, rest, socket)

    async def kernel(self, rest: JsonConnection) -> str:
        """The id of a kernel that nobody has."""
        return str((await rest.request("POST", "/api/kernels", {"name": "python3"}))["id"])

"""ZeroMQ's protocol (ZMTP 3.0, rfc.zeromq.org/spec/23), the part of one who listens.

Theory of operation. A kernel forks while its sockets are in use, again and again. libzmq has
threads of its own and a state that belongs to them: a fork can neither use nor free it, and each
would leave what the one before had. So a kernel speaks the protocol itself, over unix sockets, to
whoever uses libzmq at the other end. There is nothing here but the connections' buffers, no thread
takes part, and a message has left when the system has it.

The mechanism is NULL: who may connect, the file system says, and Jupyter signs its messages.
"""

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from socket import MSG_DONTWAIT, MSG_NOSIGNAL
from socket import socket as Socket  # the code may put another in its place
from typing import Any

MOST_UNSENT = 1000
"""So many messages wait for a peer that does not read; libzmq's high-water mark."""
_MORE, _LONG, _COMMAND = 1, 2, 4
_READ_BYTES = 1 << 16
_SHORT_BYTES = 255
_GREETING_BYTES = 64
_MECHANISM = b"NULL".ljust(20, b"\0")
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + _MECHANISM + bytes(32)
"""What both say first."""
_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL

_short = struct.Struct("!BB").pack
_long = struct.Struct("!BQ").pack


class ProtocolError(ConnectionError):
    """The peer speaks something else."""


def encode(frames: Sequence[Any]) -> bytes:
    """A message as it is sent; each frame is bytes, or has them (buffer protocol)."""
    parts = list[bytes]()
    last = len(frames) - 1
    for number, frame in enumerate(frames):
        body = frame if isinstance(frame, bytes) else bytes(frame)
        flags = _MORE if number < last else 0
        size = len(body)
        head = _short(flags, size) if size <= _SHORT_BYTES else _long(flags | _LONG, size)
        parts += (head, body)
    return b"".join(parts)


class Peer:
    """A connection from the socket of a client; `kind` is ours, such as ROUTER.

    `routing_id` is what the client calls itself, None until it has introduced itself.
    """

    def __init__(self, socket: Socket, kind: bytes) -> None:
        self._socket = socket
        self._kind = kind
        self._received = bytearray()
        self._is_greeted = False
        self._parts: list[bytes] = []
        self._unsent: deque[memoryview] = deque()
        self.routing_id: bytes | None = None

    def fileno(self) -> int:
        """The descriptor, to wait for."""
        return self._socket.fileno()

    def close(self) -> None:
        """Free the connection."""
        self._socket.close()

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be sent until the peer has read."""
        return bool(self._unsent)

    def receive(self) -> list[list[bytes]]:
        """The messages that have come; raises ConnectionError where there will be no more."""
        try:
            data = self._socket.recv(_READ_BYTES, MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionResetError
        self._received += data
        if not self._is_greeted and not self._hear_greeting():
            return []
        messages = list[list[bytes]]()
        for flags, body in self._take_frames():
            if flags & _COMMAND:
                self._obey(body)
                continue
            self._parts.append(body)
            if not flags & _MORE:
                messages.append(self._parts)
                self._parts = []
        return messages

    def _hear_greeting(self) -> bool:
        greeting = self._received
        if len(greeting) < _GREETING_BYTES:
            return False
        if greeting[0] != 0xFF or greeting[10] < 3 or greeting[12:32] != _MECHANISM:
            raise ProtocolError
        del greeting[:_GREETING_BYTES]
        self._is_greeted = True
        self._write(_command(b"READY", _property(b"Socket-Type", self._kind)))
        return True

    def _take_frames(self) -> Iterator[tuple[int, bytes]]:
        """The flags and the body of each frame that is here as a whole."""
        received, there, at = self._received, len(self._received), 0
        with memoryview(received) as view:
            while there - at >= 2:
                flags = view[at]
                if flags & _LONG:
                    start = at + 9
                    if there < start:
                        break
                    end = start + int.from_bytes(view[at + 1 : start])
                else:
                    start = at + 2
                    end = start + view[at + 1]
                if there < end:
                    break
                yield flags, bytes(view[start:end])
                at = end
        del received[:at]

    def _obey(self, command: bytes) -> None:
        if not command:
            raise ProtocolError
        name, said = command[1 : 1 + command[0]], command[1 + command[0] :]
        if name == b"READY":
            self.routing_id = _properties(said).get(b"identity", b"")
        elif name == b"PING":
            self._write(_command(b"PONG", said[2:]))
        elif name == b"ERROR":
            raise ProtocolError

    def send(self, message: bytes) -> None:
        """Send what `encode` has made, now or by `send_rest`; raises OSError where it is gone.

        One that has left too much unread gets no more.
        """
        if len(self._unsent) < MOST_UNSENT:
            self._write(message)

    def _write(self, data: bytes) -> None:
        if self._unsent:
            self._unsent.append(memoryview(data))
            return
        try:
            sent = self._socket.send(data, _FLAGS)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])

    def send_rest(self) -> None:
        """Send what waits, as far as the peer has read; raises OSError where it is gone."""
        unsent = self._unsent
        try:
            while unsent:
                sent = self._socket.send(unsent[0], _FLAGS)
                if sent == len(unsent[0]):
                    unsent.popleft()
                else:
                    unsent[0] = unsent[0][sent:]
        except BlockingIOError:
            pass


def _command(name: bytes, said: bytes) -> bytes:
    body = bytes([len(name)]) + name + said
    return _short(_COMMAND, len(body)) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4) + value


def _properties(said: bytes) -> dict[bytes, bytes]:
    """What a peer says of itself, by name in small letters; raises ProtocolError."""
    found = dict[bytes, bytes]()
    at = 0
    while at < len(said):
        name_end = at + 1 + said[at]
        start = name_end + 4
        end = start + int.from_bytes(said[name_end:start])
        if end > len(said):
            raise ProtocolError
        found[said[at + 1 : name_end].lower()] = said[start:end]
        at = end
    return found

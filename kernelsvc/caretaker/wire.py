"""The words between a service and its caretaker: a packet each, with the descriptors that it names.

Both are the same user's, on a socket that nobody else has or may connect to.
"""

import dataclasses
import json
import socket
from typing import ClassVar

MOST_FDS = 16
_MOST_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class Estate:
    """What the service leaves, should it end without a word; the first one of each service.

    `grace` is for how many seconds the next service is waited for. Where none comes, `directories`
    are removed, and the control groups whose paths begin with one of `groups`, and `address`, the
    path of the socket on which a next service is awaited.
    """

    name: ClassVar[str] = "estate"
    grace: float
    address: str
    directories: list[str]
    groups: list[str]
    fds: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Keep:
    """Hold on to these descriptors of a seat, in the place of those that were held for it."""

    name: ClassVar[str] = "keep"
    seat: str
    fds: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class LetGo:
    """The seat is gone, or is to go."""

    name: ClassVar[str] = "let_go"
    seat: str


@dataclasses.dataclass(frozen=True, slots=True)
class Farewell:
    """The service ends in good order, or wants nothing of it: all is to end, the caretaker too."""

    name: ClassVar[str] = "farewell"


@dataclasses.dataclass(frozen=True, slots=True)
class ThatIsAll:
    """To the next service: it has been handed everything."""

    name: ClassVar[str] = "that_is_all"


TOLD = "told"
"""A file in memory, which the service writes and the next one reads: what it is all about."""
LOCK = "lock"
"""Of an estate: holds the lock of the runtime directory."""
PROCESSES = frozenset({"first", "outer", "egress_process"})
"""Descriptors of processes that are to end with the seat."""
DRAINED = frozenset({"stderr", "egress_stderr"})
"""Pipes that somebody must read, or who writes to them would have to wait."""

Message = Estate | Keep | LetGo | Farewell | ThatIsAll
_MESSAGES: dict[str, type[Message]] = {
    message.name: message for message in (Estate, Keep, LetGo, Farewell, ThatIsAll)
}


def send(to: socket.socket, message: Message, fds: list[int]) -> None:
    """Send a message; raises OSError."""
    fields = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    socket.send_fds(to, [json.dumps([message.name, fields]).encode()], fds)


def receive(source: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message with its descriptors; None where the other end has hung up."""
    said, fds, _, _ = socket.recv_fds(source, _MOST_BYTES, MOST_FDS)
    if not said:
        return None
    name, fields = json.loads(said)
    return _MESSAGES[name](**fields), fds

"""Visits: requests to ports of a session, as long as they last.

A request is a visit from when it is admitted until it has been answered, or its WebSocket has
ended. While one is open that may have reached a server, the session is in use: it is not put to
sleep.
"""

import socket
from collections.abc import Callable


class Visits:
    """The visits of one session that is awake; `on_end` is called when one has ended."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._open = 0

    @property
    def are_open(self) -> bool:
        """Whether there is one."""
        return self._open > 0

    def begin(self) -> None:
        """There is one more."""
        self._open += 1

    def end(self) -> None:
        """There is one less."""
        self._open -= 1
        self._on_end()


def _nothing() -> None:
    """What is called where nobody minds."""


class Visit:
    """One request; ended by `end`, once or more.

    `server` is the connection to the server, which is the visitor's once it was taken. It is None
    where nothing listens; then there is stored `code`. `on_cut` is called when the visit is not
    wanted any more.
    """

    def __init__(self, session_id: str, owner: str, on_end: Callable[["Visit"], None]) -> None:
        self.session_id = session_id
        self.owner = owner
        self.server: socket.socket | None = None
        self.code: str | None = None
        self.on_cut: Callable[[], None] = _nothing
        self._on_end = on_end
        self._stays: Visits | None = None

    def stay(self, visits: Visits) -> None:
        """Be one of these from here on."""
        self._stays = visits
        visits.begin()

    def take_server(self) -> socket.socket | None:
        """The connection, which the caller closes."""
        server, self.server = self.server, None
        return server

    def end(self) -> None:
        """It is over."""
        if (server := self.take_server()) is not None:
            server.close()
        stays, self._stays = self._stays, None
        if stays is not None:
            stays.end()
        self._on_end(self)

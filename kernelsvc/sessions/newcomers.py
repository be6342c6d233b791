"""Sessions that are being made: counted, and alone with their id, until they are there or not."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from kernelsvc.errors import SessionExists
from kernelsvc.models.caller import Caller
from kernelsvc.sessions.quotas import QuotaBook


class Newcomers:
    """Keeps two from making a session of the same id: one's workspace would be the other's."""

    def __init__(self, quotas: QuotaBook) -> None:
        self._quotas = quotas
        self._ids: set[str] = set()

    @contextmanager
    def coming(self, caller: Caller, session_id: str) -> Iterator[None]:
        """Make a session within; where that raises, it counts for nobody.

        Raises SessionExists, QuotaExceeded and TooManySessions. Whether there is such a session
        already is for the store to say.
        """
        if session_id in self._ids:
            raise SessionExists(session_id)
        self._quotas.add_session(caller)
        self._ids.add(session_id)
        try:
            yield
        except BaseException:
            self._quotas.drop_session(caller.owner)
            raise
        finally:
            self._ids.discard(session_id)


def new_session_id() -> str:
    """An id that nobody guesses."""
    return "sess_" + secrets.token_hex(12)

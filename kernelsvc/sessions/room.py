"""The workspace of a session that is awake, and the room that it may take."""

import contextlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from kernelsvc.errors import WorkspaceFull
from kernelsvc.files.own import MEMORY_FILE
from kernelsvc.files.workspace import Workspaces

_FAR_OVER: Final = 2
_SLACK: Final = 1 << 20


class Room:
    """`limit` is in bytes. The methods block.

    `ceiling` is what the session may keep while the kernel runs that has been prepared for last. A
    session that is over its limit may have it as long as nothing is added, so that code can delete;
    one that keeps more than twice as much gets no kernel before files are deleted by the API.
    """

    def __init__(self, workspaces: Workspaces, session_id: str, limit: int | None) -> None:
        self.path = workspaces.path(session_id)
        self._workspaces = workspaces
        self._session_id = session_id
        self._limit = math.inf if limit is None else limit
        self.ceiling = self._limit

    def prepare(self) -> None:
        """Before a kernel starts: make sure that there is a workspace; raises WorkspaceFull."""
        self._workspaces.create(self._session_id)
        most = _FAR_OVER * self._limit
        used = self._workspaces.charged(self._session_id, most)
        if used > most:
            raise WorkspaceFull(int(self._limit), used)
        self.ceiling = max(self._limit, min(used + _SLACK, most))

    def has_any(self, names: Iterable[str]) -> bool:
        """Whether one of these is in it."""
        return self._workspaces.has_any(self._session_id, names)

    def left(self) -> float:
        """What may still be added to it, in bytes."""
        return max(0, self._limit - self._workspaces.charged(self._session_id))

    def find_again(self) -> bool:
        """Go on where a kernel runs already; whether something is kept of the session's memory."""
        with contextlib.suppress(WorkspaceFull):
            self.prepare()
        return self.has_any([MEMORY_FILE])

    def forget_memory(self) -> None:
        """Delete what was kept of the session's memory."""
        self._workspaces.forget_memory(self._session_id)

    def move_to(self, spare: Path) -> None:
        """Make an empty directory the workspace, with all its files; raises NotHandedOver."""
        self._workspaces.hand_over(self._session_id, spare)

    def renew(self) -> None:
        """Empty it."""
        self._workspaces.renew(self._session_id)

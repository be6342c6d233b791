"""Giving a workspace another directory: one that a sandbox shows already.

Theory of operation. A sandbox that waits for a session shows an empty directory as its workspace, a
*spare*, and goes on to show that very directory under whatever name it is given. So the files come
to it: the spare is renamed to the session's id in the directory of those that are *joining*, every
entry of the workspace is moved there, and it takes the workspace's place. A crash in between leaves
a directory that says whose files it has; `take_back` moves them to where they were.

Nobody else may use the workspace meanwhile: that is what the `Gate` is for. The session's own code
does not run then.
"""

import contextlib
import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kernelsvc.files.beneath import directory_at

MOST_ENTRIES: Final = 1000
"""A workspace with more entries than this at its top is left where it is: moving takes too long."""

_WAIT_SECONDS = 30.0
_USE_SECONDS = 0.1
"""So long is waited for who uses a workspace: most only look how much is in it."""


class NotHandedOver(Exception):
    """The workspace has stayed as it was; says why."""


class Gate:
    """Many may use a workspace at once, each in a thread; who replaces it must be alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users: Counter[str] = Counter()
        self._replaced: set[str] = set()

    @contextmanager
    def using(self, session_id: str) -> Iterator[None]:
        """Use it; waits while it is being replaced. Raises TimeoutError, an OSError."""
        with self._changed:
            if not self._changed.wait_for(lambda: session_id not in self._replaced, _WAIT_SECONDS):
                raise TimeoutError("the workspace is being replaced")
            self._users[session_id] += 1
        try:
            yield
        finally:
            with self._changed:
                self._users[session_id] -= 1
                if not self._users[session_id]:
                    del self._users[session_id]
                    self._changed.notify_all()

    @contextmanager
    def alone(self, session_id: str) -> Iterator[None]:
        """Replace it; raises NotHandedOver where somebody uses it for longer than a moment."""

        def is_free() -> bool:
            return not self._users[session_id] and session_id not in self._replaced

        with self._changed:
            if not self._changed.wait_for(is_free, _USE_SECONDS):
                raise NotHandedOver("its files are being used")
            self._replaced.add(session_id)
        try:
            yield
        finally:
            with self._changed:
                self._replaced.discard(session_id)
                self._changed.notify_all()


def hand_over(root: int, session: bytes, spares: int, spare: bytes, joining: int) -> None:
    """Put the empty directory `spare` in the place of the workspace `session`, with its files.

    `root`, `spares` and `joining` are open directories on one file system: those of workspaces, of
    spares and of what is between. Nobody else uses the two. Raises NotHandedOver; the workspace is
    then as it was.
    """
    try:
        with directory_at(root, session) as old, directory_at(spares, spare) as new:
            names = _names(old)
            if os.listdir(new):
                raise NotHandedOver("the new directory is not empty")
            os.fchmod(new, os.fstat(old).st_mode & 0o777)
            os.rename(spare, session, src_dir_fd=spares, dst_dir_fd=joining)
            try:
                for name in names:
                    os.rename(name, name, src_dir_fd=old, dst_dir_fd=new)
                os.rename(session, session, src_dir_fd=joining, dst_dir_fd=root)
            except OSError:
                take_back(root, session, joining)
                raise
    except OSError as error:
        raise NotHandedOver(error.strerror or type(error).__name__) from error


def take_back(root: int, session: bytes, joining: int) -> None:
    """Undo a hand-over that was cut short; raises OSError."""
    with directory_at(joining, session) as new, directory_at(root, session) as old:
        for name in os.listdir(new):
            os.rename(name, name, src_dir_fd=new, dst_dir_fd=old)
    os.rmdir(session, dir_fd=joining)


def _names(directory: int) -> list[str]:
    with contextlib.closing(os.scandir(directory)) as entries:
        names = [entry.name for entry in itertools.islice(entries, MOST_ENTRIES + 1)]
    if len(names) > MOST_ENTRIES:
        raise NotHandedOver("it has too many files")
    return names

"""Workspaces: one directory a session, the working directory of its runs.

The methods block and are called in a thread. Removing is renaming first, into a directory that is
emptied at start-up too: a crash half-way leaves nothing that could be taken for a workspace.
"""

import os
import secrets
import shutil
from pathlib import Path

from kernelsvc.files.directory import ensure_directory
from kernelsvc.files.session_data import DATA_FILE


class Workspaces:
    """The workspaces below `root`, named after their sessions."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._trash = root.with_name(root.name + ".trash")

    def open(self, session_ids: set[str]) -> None:
        """Make the directories, and clear away what belongs to no session."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._trash.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in os.scandir(self._root):
            if entry.name not in session_ids:
                self.remove(entry.name)
        for entry in os.scandir(self._trash):
            _delete(Path(entry.path))
        for session_id in session_ids:
            self.create(session_id)

    def path(self, session_id: str) -> Path:
        """Where the session's files are."""
        return self._root / session_id

    def create(self, session_id: str) -> None:
        """Make an empty workspace; one that is there stays as it is."""
        ensure_directory(self.path(session_id))

    def remove(self, session_id: str) -> None:
        """Delete the workspace with everything in it; none is fine too."""
        doomed = self._trash / secrets.token_hex(8)
        try:
            self.path(session_id).rename(doomed)
        except FileNotFoundError:
            return
        _delete(doomed)

    def renew(self, session_id: str) -> None:
        """Replace the workspace by an empty one."""
        self.remove(session_id)
        self.create(session_id)

    def usage(self, session_id: str) -> tuple[int, int]:
        """How many files the session keeps, and their bytes; links are not followed."""
        count = size = 0
        data_file = str(self.path(session_id) / DATA_FILE)
        for folder, _, names in os.walk(self.path(session_id)):
            for name in names:
                path = os.path.join(folder, name)
                if path == data_file:
                    continue
                try:
                    size += os.lstat(path).st_size
                except FileNotFoundError:
                    continue
                count += 1
        return count, size


def _delete(path: Path) -> None:
    """Delete whatever is at the path; a link, not what it points to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    # Code may have locked directories of its own against itself.
    path.chmod(0o700)
    for folder, names, _ in os.walk(path):
        for name in names:
            inner = Path(folder, name)
            if not inner.is_symlink():
                inner.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)

"""The directory in which the sockets of a service's kernels are."""

import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path

_LONGEST_IPC_PATH = 107
_LOCK = "lock"


class RuntimeDirectory:
    """Where the sockets of this service's kernels are; short, private, gone with the service.

    Each service has a directory of its own below `base` and holds a lock in it, and so does the
    caretaker of what outlives a service: the next one goes on in the same directory. One whose lock
    is free belonged to a service that ended without cleaning up, and with it its kernels: `open`
    removes what is left.
    """

    def __init__(self, base: Path | None) -> None:
        self._base = base or Path(tempfile.gettempdir()) / f"kernelsvc-{os.getuid()}"
        self._lock: int | None = None
        self.path = self._base / secrets.token_hex(4)
        self.is_left_behind = False

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock."""
        assert self._lock is not None
        return self._lock

    def inherit(self, path: Path, lock: int, needed: set[str]) -> None:
        """Have the directory that an earlier service has left, with what is needed in it.

        Called before `open`.
        """
        self.path, self._lock, self.is_left_behind = path, lock, True
        for entry in os.scandir(path):
            if entry.name not in needed and entry.is_dir():
                shutil.rmtree(entry.path, ignore_errors=True)

    def first_number(self) -> int:
        """The first that the name of nothing in it ends with, nor that of a lower one."""
        names = [name.rpartition("-")[2].partition(".")[0] for name in os.listdir(self.path)]
        return max((int(name) for name in names if name.isdigit()), default=0) + 1

    def open(self) -> None:
        """Make the directory; raises OSError where `base` is somebody else's."""
        self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(self._base)
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{self._base} must belong to this user alone (mode 700)")
        # Between making a directory and locking it, it looks abandoned: one service at a time.
        opening = os.open(self._base / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(opening, fcntl.LOCK_EX)
            for entry in os.scandir(self._base):
                if entry.is_dir() and (lock := _lock(Path(entry.path, _LOCK))) is not None:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    os.close(lock)
            if self._lock is None:
                self.path.mkdir(mode=0o700)
                self._lock = _lock(self.path / _LOCK)
        finally:
            os.close(opening)
        if len(str(self.path)) + len("/host-99999/99999-ipc-5") > _LONGEST_IPC_PATH:
            self.close()
            raise OSError(f"runtime_dir {self._base} is too long a path for sockets")

    def close(self) -> None:
        """Remove the directory, unless it `is_left_behind` for another service."""
        if not self.is_left_behind:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the lock, or None where another process does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd

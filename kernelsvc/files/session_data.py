"""`.session_data.json`: a session's data as a file in its workspace (ERA's convention).

Before a run the file holds the session's data; what the code leaves there is the data afterwards.
Who changed it is told from the file's identity and times, so an unchanged file is never read.
The code owns the directory: the file may have become a link, a pipe or gigabytes of noise. It is
found from the directory of workspaces down, without following links and without waiting, and read
up to a bound. The methods block and are called in a thread, but for `is_as_seen`, which opens no
file.
"""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelsvc.files.beneath import NotRegular, directory_at, directory_by_path, open_regular
from kernelsvc.files.directory import Owner, ensure_directory, give
from kernelsvc.models.fields import json_problem

DATA_FILE = ".session_data.json"
_NAME = DATA_FILE.encode()

Signature = tuple[int, int, int, int]


@dataclass(frozen=True)
class DataRead:
    """What was found: `data` where it can be taken over, else `problem` says why not."""

    data: dict[str, Any] | None
    problem: str | None = None


class DataFile:
    """The file in one workspace; `seen` is what it was like when the service last saw it."""

    def __init__(self, workspace: Path, max_bytes: int, owner: Owner | None = None) -> None:
        self._path = workspace / DATA_FILE
        self._root = os.fsencode(workspace.parent)
        self._workspace = os.fsencode(workspace.name)
        self._max_bytes = max_bytes
        self._owner = owner
        self.seen: Signature | None = None

    def write(self, data: dict[str, Any]) -> None:
        """Replace the file, whatever it has become, by one that holds `data`."""
        with directory_by_path(self._root) as root:
            ensure_directory(root, self._workspace, self._owner)
            with directory_at(root, self._workspace) as workspace:
                self._replace(root, workspace, data)
                self.seen = _signature(workspace)

    def _replace(self, root: int, workspace: int, data: dict[str, Any]) -> None:
        """Should the service be killed in between, what is left is beside the workspace.

        There it is out of the code's sight, and goes when the service starts again.
        """
        token = secrets.token_hex(8).encode()
        # No session is called so.
        temporary = b"." + token
        try:
            self._write_new(root, temporary, data)
            if _is_directory(workspace):
                aside = _NAME + b"." + token + b".was-a-directory"
                os.rename(_NAME, aside, src_dir_fd=workspace, dst_dir_fd=workspace)
            os.replace(temporary, _NAME, src_dir_fd=root, dst_dir_fd=workspace)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=root)
            raise

    def _write_new(self, directory: int, name: bytes, data: dict[str, Any]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        with os.fdopen(fd, "w") as file:
            give(fd, self._owner)
            json.dump(data, file)

    def read_if_changed(self) -> DataRead | None:
        """What the code has put there since the last call or `write`; None for nothing new."""
        signature = self._signature()
        if signature == self.seen:
            return None
        self.seen = signature
        if signature is None:
            return None
        try:
            return DataRead(self._read())
        except (NotRegular, OSError, ValueError, RecursionError) as error:
            return DataRead(None, f"{DATA_FILE} was not taken over: {_reason(error)}")

    def is_as_seen(self) -> bool:
        """Whether it is there, and nothing has happened to it since it was last seen.

        It is only looked at, by its path: whatever the code may have put on the way there, it is
        the very file that was seen.
        """
        try:
            return _of(os.lstat(self._path)) == self.seen
        except OSError:
            return False

    def is_missing(self) -> bool:
        """Whether nothing is there."""
        return self._signature() is None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        with (
            directory_by_path(self._root) as root,
            directory_at(root, self._workspace) as workspace,
        ):
            yield workspace

    def _signature(self) -> Signature | None:
        try:
            with self._opened() as workspace:
                return _signature(workspace)
        except OSError:
            # The code has put something else in the place of its workspace, or locked it.
            return None

    def _read(self) -> dict[str, Any]:
        with self._opened() as workspace:
            owner = os.geteuid() if self._owner is None else self._owner[0]
            fd = open_regular(workspace, _NAME, owner)
        with os.fdopen(fd, "rb") as file:
            content = file.read(self._max_bytes + 1)
        if len(content) > self._max_bytes:
            raise ValueError(f"it is larger than {self._max_bytes} bytes")
        data = json.loads(content)
        if not isinstance(data, dict):
            raise ValueError("it does not hold a JSON object")  # noqa: TRY004
        if (problem := json_problem(data)) is not None:
            raise ValueError(f"it {problem}")
        return data


def _signature(workspace: int) -> Signature | None:
    try:
        found = os.stat(_NAME, dir_fd=workspace, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return _of(found)


def _of(found: os.stat_result) -> Signature:
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _is_directory(workspace: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(_NAME, dir_fd=workspace, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _reason(error: Exception) -> str:
    match error:
        case NotRegular():
            return f"it is not a regular file but {error}"
        case json.JSONDecodeError() | UnicodeDecodeError():
            return f"it is not JSON ({error})"
        case OSError():
            return f"it cannot be opened ({error.strerror})"
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return str(error)

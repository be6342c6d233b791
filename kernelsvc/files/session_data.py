"""`.session_data.json`: a session's data as a file in its workspace (ERA's convention).

Before a run the file holds the session's data; what the code leaves there is the data afterwards.
Who changed it is told from the file's identity and times, so an unchanged file is never read.
The code owns the directory: the file may have become a link, a pipe or gigabytes of noise. It is
opened without following links and without waiting, and read up to a bound.
The methods block and are called in a thread.
"""

import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelsvc.files.directory import ensure_directory
from kernelsvc.models.fields import json_problem

DATA_FILE = ".session_data.json"

Signature = tuple[int, int, int, int]


@dataclass(frozen=True)
class DataRead:
    """What was found: `data` where it can be taken over, else `problem` says why not."""

    data: dict[str, Any] | None
    problem: str | None = None


class DataFile:
    """The file in one workspace, and what it was like when the service last saw it."""

    def __init__(self, workspace: Path, max_bytes: int) -> None:
        self._path = workspace / DATA_FILE
        self._max_bytes = max_bytes
        self._seen: Signature | None = None

    def write(self, data: dict[str, Any]) -> None:
        """Replace the file, whatever it has become, by one that holds `data`."""
        ensure_directory(self._path.parent)
        fd, temporary = tempfile.mkstemp(prefix=DATA_FILE + ".", dir=self._path.parent)
        try:
            owner = self._path.parent.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)
            with os.fdopen(fd, "w") as file:
                json.dump(data, file)
            if self._path.is_dir() and not self._path.is_symlink():
                self._path.rename(temporary + ".was-a-directory")
            os.replace(temporary, self._path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._seen = self._signature()

    def read_if_changed(self) -> DataRead | None:
        """What the code has put there since the last call or `write`; None for nothing new."""
        signature = self._signature()
        if signature == self._seen:
            return None
        self._seen = signature
        if signature is None:
            return None
        try:
            return DataRead(self._read())
        except (OSError, ValueError, RecursionError) as error:
            return DataRead(None, f"{DATA_FILE} was not taken over: {_reason(error)}")

    def is_missing(self) -> bool:
        """Whether nothing is there."""
        return self._signature() is None

    def _signature(self) -> Signature | None:
        try:
            found = os.lstat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _read(self) -> dict[str, Any]:
        fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("it is not a regular file")
            content = file.read(self._max_bytes + 1)
        if len(content) > self._max_bytes:
            raise ValueError(f"it is larger than {self._max_bytes} bytes")
        data = json.loads(content)
        if not isinstance(data, dict):
            raise ValueError("it does not hold a JSON object")  # noqa: TRY004
        if (problem := json_problem(data)) is not None:
            raise ValueError(f"it {problem}")
        return data


def _reason(error: Exception) -> str:
    match error:
        case json.JSONDecodeError() | UnicodeDecodeError():
            return f"it is not JSON ({error})"
        case OSError():
            return f"it cannot be opened ({error.strerror})"
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return str(error)

"""The files in one open workspace: list, open, put in place, delete.

The methods block and are called in a thread. Paths are those of `kernelsvc.files.path`.
"""

import os
import stat
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from kernelsvc.errors import FileNotFound, PreconditionFailed
from kernelsvc.files.beneath import (
    NotRegular,
    directory_at,
    kind_of,
    open_beneath,
    open_regular,
)
from kernelsvc.files.own import OWN_FILES
from kernelsvc.files.path import MAX_PATH_BYTES
from kernelsvc.files.placing import make_directories
from kernelsvc.files.told import shown, told
from kernelsvc.files.tree import walk
from kernelsvc.files.workspace import Workspaces
from kernelsvc.models.file import FileInfo, FileList

MOST_LISTED = 100_000


@dataclass(frozen=True)
class Precondition:
    """What the caller knows of the file: ETags, or "*" for any file; None for not given."""

    if_match: frozenset[str] | None = None
    if_none_match: frozenset[str] | None = None

    def check(self, etag: str | None) -> None:
        """Raise PreconditionFailed unless it holds for a file with this ETag; None for no file."""
        wanted, unwanted = self.if_match, self.if_none_match
        if wanted is not None and (etag is None or not wanted & {etag, "*"}):
            raise PreconditionFailed
        if unwanted is not None and etag is not None and unwanted & {etag, "*"}:
            raise PreconditionFailed


class OpenedFile:
    """A file as it was when it was opened; it may be closed while a thread reads."""

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.size = status.st_size
        self.etag = etag_of(status)
        self.modified = modified(status)
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._closed = False

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; none at the end, and once it is closed."""
        with self._lock:
            return b"" if self._closed else os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        """Free it; again is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)


def list_files(workspace: int, below: bytes = b"") -> FileList:
    """The regular files below a directory of it, sorted, 100,000 at most; all are counted.

    Those whose path is too long are left out. Raises FileNotFound, NotARegularFile and others.
    """
    if not below:
        return _listed(workspace, b"")
    with told(below), directory_at(workspace, below) as directory:
        return _listed(directory, below + b"/")


def _listed(directory: int, prefix: bytes) -> FileList:
    found: list[FileInfo] = []
    count = size = 0
    for entry in walk(directory):
        if not stat.S_ISREG(entry.status.st_mode) or entry.path is None:
            continue
        path = prefix + entry.path
        if path in OWN_FILES or len(path) > MAX_PATH_BYTES:
            continue
        count += 1
        size += entry.status.st_size
        if len(found) < MOST_LISTED:
            found.append(info_of(path, entry.status))
    found.sort(key=lambda file: file.path)
    return FileList(
        files=found,
        count=len(found),
        total_count=count,
        total_size_bytes=size,
        truncated=count > len(found),
    )


def open_file(workspaces: Workspaces, session_id: str, path: bytes) -> OpenedFile:
    """The regular file at `path`; raises FileNotFound, NotARegularFile, FileNotAccessible."""
    with told(path), workspaces.directory(session_id) as workspace:
        descriptor = open_regular(workspace, path, workspaces.owner_uid)
    return OpenedFile(descriptor)


def size_of(workspaces: Workspaces, session_id: str, path: bytes, condition: Precondition) -> int:
    """The size of the regular file at `path`, 0 where there is none.

    Raises what `place` would: NotARegularFile, FileNotAccessible, PreconditionFailed.
    """
    with told(path), workspaces.directory(session_id) as workspace:
        status = find(workspace, path)
    condition.check(None if status is None else etag_of(status))
    return 0 if status is None else status.st_size


def place(
    workspaces: Workspaces, session_id: str, staged: bytes, path: bytes, condition: Precondition
) -> FileInfo:
    """Move a staged file to its path, over the regular file that may be there."""
    with (
        told(path),
        workspaces.staging() as staging,
        workspaces.directory(session_id) as workspace,
    ):
        before = find(workspace, path)
        condition.check(None if before is None else etag_of(before))
        status = os.stat(staged, dir_fd=staging, follow_symlinks=False)
        directory, _, name = path.rpartition(b"/")
        parent = make_directories(workspace, directory, staging, workspaces.owner)
        try:
            os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=parent)
        finally:
            os.close(parent)
    return info_of(path, status)


def delete_file(
    workspaces: Workspaces, session_id: str, path: bytes, condition: Precondition
) -> None:
    """Delete the regular file at `path`; its directory stays."""
    with told(path), workspaces.directory(session_id) as workspace:
        status = find(workspace, path)
        condition.check(None if status is None else etag_of(status))
        if status is None:
            raise FileNotFound(shown(path))
        directory, _, name = path.rpartition(b"/")
        parent = os.dup(workspace)
        if directory:
            os.close(parent)
            parent = open_beneath(workspace, directory, os.O_PATH | os.O_DIRECTORY)
        try:
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(parent)


def find(workspace: int, path: bytes) -> os.stat_result | None:
    """The regular file at `path`, or None; raises NotRegular and OSError."""
    try:
        found = open_beneath(workspace, path, os.O_PATH)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(found)
    finally:
        os.close(found)
    if not stat.S_ISREG(status.st_mode):
        raise NotRegular(kind_of(status.st_mode))
    return status


def info_of(path: bytes, status: os.stat_result) -> FileInfo:
    """The file, or directory, as the API shows it."""
    time = modified(status)
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return FileInfo(path=shown(path), size=size, uploaded=time, modified_at=time)


def etag_of(status: os.stat_result) -> str:
    """An ETag, with its quotes, that changes whenever the file is replaced or written to."""
    return f'"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"'


def modified(status: os.stat_result) -> datetime:
    """The time of the last modification; code can set any, also one that no calendar has."""
    try:
        return datetime.fromtimestamp(status.st_mtime, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime(1 if status.st_mtime < 0 else 9999, 1, 1, tzinfo=UTC)

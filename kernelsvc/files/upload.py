"""A file that is being sent: staged out of the code's reach, then moved to its place at once.

Whatever happens on the way, nothing of it is left and nothing has changed. The methods block and
are called in threads, also at the same time: a client may go away within a write.
"""

import contextlib
import os
import secrets
import threading

from kernelsvc.errors import FieldProblem, InvalidRequest, SessionNotFound
from kernelsvc.files.beneath import directory_at
from kernelsvc.files.charge import LEAST_CHARGE, charge_of
from kernelsvc.files.contents import Precondition, place, size_of
from kernelsvc.files.directories import make_directory
from kernelsvc.files.directory import give
from kernelsvc.files.quota import Reservation, Space
from kernelsvc.files.told import told
from kernelsvc.files.tree import delete_tree
from kernelsvc.files.unpacking import Unpacked, check_way, move_in, unpack
from kernelsvc.files.workspace import Workspaces
from kernelsvc.models.file import ArchiveUnpacked, FileInfo

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644
_EXTEND_BY = 16 * 1024 * 1024


class StagedFile:
    """A new file in the staging directory, until it is moved away or discarded."""

    def __init__(self, workspaces: Workspaces) -> None:
        self.name = secrets.token_hex(16).encode()
        self.size = 0
        self._workspaces = workspaces
        self._lock = threading.Lock()
        with workspaces.staging() as staging, told(b"upload"):
            self._descriptor: int | None = os.open(self.name, _NEW, 0o600, dir_fd=staging)

    def write(self, data: bytes) -> None:
        """Append; nothing happens once it is closed. Raises StorageFull."""
        with self._lock, told(b"upload"):
            rest = memoryview(data)
            while rest and self._descriptor is not None:
                written = os.write(self._descriptor, rest)
                rest = rest[written:]
                self.size += written

    def finish(self) -> None:
        """Give it its final mode and owner."""
        with self._lock, told(b"upload"):
            if self._descriptor is not None:
                os.fchmod(self._descriptor, _MODE)
                give(self._descriptor, self._workspaces.owner)

    def reader(self) -> int:
        """A descriptor of its own for reading from the beginning; the caller closes it."""
        with self._workspaces.staging() as staging:
            return os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)

    def discard(self) -> None:
        """Close it, and delete it where it is still staged; again is fine."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        with contextlib.suppress(FileNotFoundError), self._workspaces.staging() as staging:
            os.unlink(self.name, dir_fd=staging)


class Upload:
    """What comes for one session; `room` counts it against the session's limit from now on.

    Ends with `finish`, which a subclass has, or with `discard`.
    """

    def __init__(self, workspaces: Workspaces, session_id: str, room: Space) -> None:
        self._workspaces = workspaces
        self._session_id = session_id
        self._room = room
        self._reserved = Reservation()
        room.begin(self._reserved)
        self._staged: StagedFile | None = None

    def begin(self, length: int | None) -> None:
        """Reserve room for `length` bytes, None where that is not known; raises WorkspaceFull."""
        needed = charge_of(length or 0)
        self._room.extend(self._reserved, needed, needed)
        self._staged = StagedFile(self._workspaces)

    def write(self, data: bytes) -> None:
        """Append; raises WorkspaceFull, StorageFull, SessionNotFound."""
        staged = self._get_staged()
        needed = staged.size + len(data)
        if needed > self._reserved.size:
            self._room.extend(self._reserved, needed, needed + _EXTEND_BY)
        staged.write(data)

    def discard(self) -> None:
        """Leave nothing of it; again is fine, and after `finish` too."""
        try:
            if self._staged is not None:
                self._staged.discard()
        finally:
            self._room.end(self._reserved)

    def _get_staged(self) -> StagedFile:
        if self._room.is_gone or self._staged is None:
            raise SessionNotFound(self._session_id)
        return self._staged


class FileUpload(Upload):
    """One file, for `path`."""

    def __init__(
        self,
        workspaces: Workspaces,
        session_id: str,
        room: Space,
        path: bytes,
        condition: Precondition,
    ) -> None:
        super().__init__(workspaces, session_id, room)
        self._path = path
        self._condition = condition

    def begin(self, length: int | None) -> None:
        """As for every upload; raises what is known to be in the way already."""
        before = size_of(self._workspaces, self._session_id, self._path, self._condition)
        self._reserved.replaces = charge_of(before) if before else 0
        super().begin(length)
        # Directories that it may have to make count as well.
        size = self._reserved.size + LEAST_CHARGE * self._path.count(b"/")
        self._room.extend(self._reserved, size, size)

    def finish(self) -> FileInfo:
        """Put the file in its place; raises NotARegularFile, PreconditionFailed and others."""
        staged = self._get_staged()
        staged.finish()
        with self._room.lock:
            self._get_staged()
            info = place(
                self._workspaces, self._session_id, staged.name, self._path, self._condition
            )
            self._room.end(self._reserved)
        self.discard()
        return info


class DirectoryUpload(Upload):
    """A directory for `path`: nothing may come."""

    def __init__(self, workspaces: Workspaces, session_id: str, room: Space, path: bytes) -> None:
        super().__init__(workspaces, session_id, room)
        self._path = path

    def begin(self, length: int | None) -> None:
        """Reserve room for it and those above it; raises WorkspaceFull, InvalidRequest."""
        if length:
            raise _not_for_directories()
        size = LEAST_CHARGE * (self._path.count(b"/") + 1)
        self._room.extend(self._reserved, size, size)

    def write(self, data: bytes) -> None:
        """Raises InvalidRequest."""
        raise _not_for_directories()

    def finish(self) -> FileInfo:
        """Make it; raises NotARegularFile and others."""
        with self._room.lock:
            if self._room.is_gone:
                raise SessionNotFound(self._session_id)
            info = make_directory(self._workspaces, self._session_id, self._path)
            self._room.end(self._reserved)
        return info


def _not_for_directories() -> InvalidRequest:
    problem = "must be empty: a path that ends with / is a directory's"
    return InvalidRequest([FieldProblem("body", problem)])


class ArchiveUpload(Upload):
    """A tar.gz, for the whole workspace."""

    def finish(self) -> ArchiveUnpacked:
        """Unpack it and move it in; raises InvalidRequest, WorkspaceFull, NotARegularFile."""
        staged = self._get_staged()
        owner, name = self._workspaces.owner, secrets.token_hex(16).encode()
        try:
            with self._workspaces.staging() as staging, told(b"archive"):
                os.mkdir(name, 0o700, dir_fd=staging)
                with directory_at(staging, name) as target:
                    with os.fdopen(staged.reader(), "rb") as archive:
                        unpacked = unpack(archive, target, owner, self._count)
                    self._move_in(target, unpacked)
        finally:
            with self._workspaces.staging() as staging:
                delete_tree(staging, name)
            self.discard()
        return ArchiveUnpacked(file_count=len(unpacked.files), total_size_bytes=unpacked.size)

    def _count(self, charged: int) -> None:
        self._get_staged()
        if charged > self._reserved.size:
            self._room.extend(self._reserved, charged, charged + _EXTEND_BY)

    def _move_in(self, target: int, unpacked: Unpacked) -> None:
        with self._room.lock, self._workspaces.directory(self._session_id) as workspace:
            self._get_staged()
            check_way(workspace, unpacked)
            move_in(target, workspace, unpacked, self._workspaces.owner)
            self._room.end(self._reserved)

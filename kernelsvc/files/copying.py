"""Copying a tree that its owner may change meanwhile.

Regular files, directories and links are copied, with their permissions (but for setuid, setgid and
sticky bits) and times; FIFOs, sockets and devices are not, nor is what lies deeper than a path can
be long. Links are made anew, never followed; of a file with several names each becomes a file of
its own. Where the file system can, a file's blocks are shared until one of the two is written to;
else its holes stay holes. Everything is found by descriptors (see `beneath` and `tree`).
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from kernelsvc.errors import FileNotAccessible, WorkspaceFull
from kernelsvc.files.beneath import NotRegular, open_beneath, open_regular
from kernelsvc.files.charge import charge_of
from kernelsvc.files.directory import Owner, give
from kernelsvc.files.tree import Entry, walk

_FICLONE = 0x40049409
_PIECE = 16 * 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_DIRECTORY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass
class TreeCopy:
    """One copy, from the open directory `source` into the open, empty directory `target`.

    The target is the service's own while this lasts; what is made there is given to `owner`.
    `source_owner` is the user whom the source's files belong to. `skipped` are paths that are left
    out, `limit` the most that the copy may count for, in bytes. `check` is called now and then, and
    raises where the copy is not wanted any more.
    """

    source: int
    target: int
    owner: Owner | None
    source_owner: int
    skipped: Collection[bytes]
    limit: int
    check: Callable[[], None]
    _used: int = 0
    # Those that could not be written to with their own permissions, in the order they were made.
    _modes: list[tuple[bytes, int]] = field(default_factory=list)
    _parent: tuple[bytes, int] = (b"", -1)

    def make(self) -> None:
        """Copy; blocks. Raises WorkspaceFull, FileNotAccessible, OSError and what `check` does.

        What has been copied until then stays in the target.
        """
        try:
            for entry in walk(self.source, unlock=True):
                if entry.path is not None and entry.path not in self.skipped:
                    self._copy(entry, entry.path)
            for path, mode in reversed(self._modes):
                self._set_mode(path, mode)
        finally:
            self._leave_parent()

    def _copy(self, entry: Entry, path: bytes) -> None:
        self.check()
        mode = entry.status.st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode) or stat.S_ISREG(mode)):
            return
        try:
            parent = self._directory_of(path)
        except OSError as error:
            if error.errno not in _NO_DIRECTORY:
                raise
            # It was moved here when what had been here before was copied already.
            return
        if stat.S_ISDIR(mode):
            self._count(entry.status.st_size)
            self._make_directory(parent, entry, path)
        elif stat.S_ISLNK(mode):
            self._count(entry.status.st_size)
            self._make_link(parent, entry)
        else:
            self._copy_file(parent, entry, path)

    def _count(self, size: int) -> None:
        self._used += charge_of(size)
        if self._used > self.limit:
            raise WorkspaceFull(self.limit, self._used)

    def _directory_of(self, path: bytes) -> int:
        """The open directory in the target that this path is in; the last one is kept open."""
        above = path.rpartition(b"/")[0]
        if self._parent[1] < 0 or self._parent[0] != above:
            self._leave_parent()
            self._parent = above, open_beneath(self.target, above or b".", _DIRECTORY)
        return self._parent[1]

    def _leave_parent(self) -> None:
        if self._parent[1] >= 0:
            os.close(self._parent[1])
            self._parent = b"", -1

    def _make_directory(self, parent: int, entry: Entry, path: bytes) -> None:
        try:
            os.mkdir(entry.name, 0o700, dir_fd=parent)
        except FileExistsError:
            return
        made = open_beneath(parent, entry.name, _DIRECTORY)
        try:
            give(made, self.owner)
        finally:
            os.close(made)
        if (mode := entry.status.st_mode & 0o777) != 0o700:
            self._modes.append((path, mode))

    def _set_mode(self, path: bytes, mode: int) -> None:
        found = open_beneath(self.target, path, _DIRECTORY)
        try:
            os.fchmod(found, mode)
        finally:
            os.close(found)

    def _make_link(self, parent: int, entry: Entry) -> None:
        try:
            to = os.readlink(entry.name, dir_fd=entry.directory)
            os.symlink(to, entry.name, dir_fd=parent)
        except (FileNotFoundError, FileExistsError):
            return
        except OSError as error:
            # It has become something else meanwhile.
            if error.errno != errno.EINVAL:
                raise
            return
        if self.owner is not None:
            os.chown(entry.name, *self.owner, dir_fd=parent, follow_symlinks=False)

    def _copy_file(self, parent: int, entry: Entry, path: bytes) -> None:
        try:
            source = open_regular(entry.directory, entry.name, self.source_owner)
        except (FileNotFoundError, NotRegular):
            return
        except OSError as error:
            reason = error.strerror or "it cannot be opened"
            raise FileNotAccessible(os.fsdecode(path), reason) from error
        try:
            status = os.fstat(source)
            self._count(status.st_size)
            try:
                made = open_beneath(parent, entry.name, _CREATE, 0o600)
            except FileExistsError:
                return
            try:
                self._copy_content(source, made, status.st_size)
                give(made, self.owner)
                os.fchmod(made, status.st_mode & 0o777)
                os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(made)
        finally:
            os.close(source)

    def _copy_content(self, source: int, made: int, size: int) -> None:
        try:
            fcntl.ioctl(made, _FICLONE, source)
        except OSError:
            position = 0
            while (extent := _next_data(source, position, size)) is not None:
                position, end = extent
                while position < end:
                    self.check()
                    copied = _copy_some(source, made, position, min(_PIECE, end - position))
                    if copied == 0:
                        break
                    position += copied
                if position < end:
                    break
        # Not more of it than was counted, and no less, even if it shrinks meanwhile.
        os.ftruncate(made, size)


def _next_data(source: int, position: int, size: int) -> tuple[int, int] | None:
    """Where the next bytes are that are no hole, as a beginning and an end."""
    if position >= size:
        return None
    try:
        begin = os.lseek(source, position, os.SEEK_DATA)
        end = os.lseek(source, begin, os.SEEK_HOLE)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
    return (begin, min(end, size)) if begin < size else None


def _copy_some(source: int, made: int, position: int, size: int) -> int:
    try:
        return os.copy_file_range(source, made, size, position, position)
    except OSError as error:
        if error.errno in _FULL:
            raise
    # Before Linux 5.3 or between some file systems.
    return os.pwrite(made, os.pread(source, min(size, 1 << 20), position), position)

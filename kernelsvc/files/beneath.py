"""Opening what is below a directory, and never anything else.

Theory of operation. The code in a session owns its workspace and changes it at any moment, perhaps
between two system calls of ours. So nothing is checked by path and then used by path: a path is
resolved once, relative to a descriptor, by the kernel, which follows no link and enters no other
file system on the way (openat2), and what was found is used through its descriptor. Where there is
no openat2 (before Linux 5.6, or in a container whose filter refuses it), the same is done component
by component: each is opened relative to the one before, as a directory and not as a link. The walk
knows another file system by its device number only, so a bind mount of the same one is entered.

To open a FIFO or a device has effects of its own. A file is therefore found with O_PATH, which
opens nothing, and opened through its descriptor once it is known to be a regular file.

Paths are bytes, relative, without `.` and `..`; see `kernelsvc.files.path`.
"""

import ctypes
import errno
import functools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_SYS_OPENAT2 = 437  # the same on every architecture but alpha
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_ALWAYS = os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_PATH_MAX = 4096

Identity = tuple[int, int]


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class NotRegular(Exception):
    """Something else is there than a regular file of the workspace's own; `str()` says what."""


def open_beneath(directory: int, path: bytes, flags: int, mode: int = 0) -> int:
    """A descriptor of `path` below `directory`; raises OSError.

    A link in the place of a directory is ENOTDIR or ELOOP, another file system EXDEV. With O_PATH,
    a link at the end is itself opened.
    """
    flags |= _ALWAYS
    if len(path) < _PATH_MAX and has_openat2():
        return _openat2(directory, path, flags, mode)
    *parents, name = path.split(b"/")
    device = os.fstat(directory).st_dev
    current = os.dup(directory)
    try:
        for parent in parents:
            found = os.open(parent, os.O_PATH | os.O_DIRECTORY | _ALWAYS, dir_fd=current)
            os.close(current)
            current = found
            _stay_on(device, current)
        found = os.open(name, flags, mode, dir_fd=current)
    finally:
        os.close(current)
    try:
        _stay_on(device, found)
    except OSError:
        os.close(found)
        raise
    return found


@functools.cache
def has_openat2() -> bool:
    """Whether the kernel has openat2 and lets us use it."""
    try:
        found = _openat2(-100, b".", os.O_PATH | os.O_CLOEXEC, 0)  # AT_FDCWD
    except OSError:
        return False
    os.close(found)
    return True


def _openat2(directory: int, path: bytes, flags: int, mode: int) -> int:
    how = _OpenHow(flags, mode if flags & os.O_CREAT else 0, _RESOLVE)
    number = ctypes.c_long(_SYS_OPENAT2)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    while True:
        found = int(_libc().syscall(number, ctypes.c_int(directory), path, ctypes.byref(how), size))
        if found >= 0:
            return found
        reason = ctypes.get_errno()
        if reason != errno.EINTR:
            raise OSError(reason, os.strerror(reason))


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _stay_on(device: int, descriptor: int) -> None:
    if os.fstat(descriptor).st_dev != device:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def identity_of(descriptor: int) -> Identity:
    """What tells an open file or directory from every other."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


@contextmanager
def directory_at(parent: int, name: bytes) -> Iterator[int]:
    """An open directory below another; its entries can be listed."""
    descriptor = open_beneath(parent, name, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def directory_by_path(path: bytes) -> Iterator[int]:
    """An open directory of the service's own, in which nobody else can change anything."""
    descriptor = os.open(path, _DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(directory: int, path: bytes, owner: int) -> int:
    """A regular file below `directory`, open for reading; raises NotRegular and OSError.

    A file with several names may have its others outside: code can make a hard link to what it
    cannot read. It is refused unless it belongs to `owner`, the user who owns the workspace, who
    could read it anyway.
    """
    found = open_beneath(directory, path, os.O_PATH)
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegular(kind_of(status.st_mode))
        if status.st_nlink > 1 and status.st_uid != owner:
            raise NotRegular("a hard link to a file of another user")
        # By its descriptor: it is the file that was looked at, whatever has its name by now. Not
        # to wait where the code holds a lease on it.
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(found)


def kind_of(mode: int) -> str:
    """What a thing is that is no regular file, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a link",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFBLK: "a device",
        stat.S_IFCHR: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no file")

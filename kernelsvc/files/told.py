"""What the system says is wrong with a file, told as an error that the caller can act on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from kernelsvc.errors import (
    FieldProblem,
    FileNotAccessible,
    FileNotFound,
    InvalidRequest,
    NotARegularFile,
    StorageFull,
)
from kernelsvc.files.beneath import NotRegular

_IN_THE_WAY = {
    errno.ELOOP: "leads through a link",
    errno.ENOTDIR: "leads through something that is not a directory",
    errno.EXDEV: "leads to another file system",
    errno.EISDIR: "is a directory",
    errno.EEXIST: "has something else in its place",
    errno.ENOTEMPTY: "is a directory",
    errno.ENXIO: "is a socket or device",
}
_KEPT_FROM_US = {
    errno.EACCES: "its permissions forbid it",
    errno.EPERM: "its permissions forbid it",
    errno.EROFS: "it is read-only",
    errno.EBUSY: "it is in use",
    errno.ETXTBSY: "it is in use",
    errno.EAGAIN: "the code holds a lock on it",
}


@contextmanager
def told(path: bytes) -> Iterator[None]:
    """Raise what a system call said about `path` in the words of the API.

    What is no fault of the caller's or the code's, such as a broken disk, stays as it is.
    """
    try:
        yield
    except NotRegular as found:
        raise NotARegularFile(shown(path), f"is not a regular file but {found}") from None
    except FileNotFoundError:
        raise FileNotFound(shown(path)) from None
    except OSError as error:
        number = error.errno or 0
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull from None
        if number == errno.ENAMETOOLONG:
            raise InvalidRequest([FieldProblem("path", "is too long")]) from None
        if number in _IN_THE_WAY:
            raise NotARegularFile(shown(path), _IN_THE_WAY[number]) from None
        if number in _KEPT_FROM_US:
            raise FileNotAccessible(shown(path), _KEPT_FROM_US[number]) from None
        raise


def shown(path: bytes) -> str:
    """The path as text; what is not UTF-8 in it is replaced."""
    return path.decode(errors="replace")

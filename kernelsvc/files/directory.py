"""A directory that the user's code owns, and may have put something else in the place of."""

import os
import stat

from kernelsvc.files.beneath import open_beneath

Owner = tuple[int, int]


def ensure_directory(parent: int, name: bytes, owner: Owner | None) -> None:
    """Make `name` in the open directory `parent` a directory that belongs to `owner` (uid, gid).

    A file or link in its place is removed, never followed. `parent` is the service's own.
    """
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
    if owner is not None:
        found = open_beneath(parent, name, os.O_PATH | os.O_DIRECTORY)
        try:
            status = os.fstat(found)
            if (status.st_uid, status.st_gid) != owner:
                os.chown(f"/proc/self/fd/{found}", *owner)
        finally:
            os.close(found)


def give(descriptor: int, owner: Owner | None) -> None:
    """Make an open file or directory that the service has just made its owner's."""
    if owner is not None:
        os.fchown(descriptor, *owner)

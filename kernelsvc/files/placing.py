"""Making directories in a workspace: in the staging directory first, then moved in.

What is made where the code cannot reach it can be given to its owner without a race, and comes
into the workspace as a whole.
"""

import errno
import os
import secrets

from kernelsvc.files.beneath import directory_at, open_beneath
from kernelsvc.files.directory import Owner, give

_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_ATTEMPTS = 10
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def make_directories(workspace: int, path: bytes, staging: int, owner: Owner | None) -> int:
    """A descriptor of the directory `path` below `workspace`, made where it is missing."""
    current = open_beneath(workspace, b".", _DIRECTORY)
    try:
        for name in path.split(b"/") if path else ():
            below = _ensure(current, name, staging, owner)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def _ensure(parent: int, name: bytes, staging: int, owner: Owner | None) -> int:
    for _ in range(_ATTEMPTS):
        try:
            return open_beneath(parent, name, _DIRECTORY)
        except FileNotFoundError:
            _move_new(parent, name, staging, owner)
    # The code takes it away as fast as it is made.
    return open_beneath(parent, name, _DIRECTORY)


def _move_new(parent: int, name: bytes, staging: int, owner: Owner | None) -> None:
    fresh = secrets.token_hex(8).encode()
    os.mkdir(fresh, 0o755, dir_fd=staging)
    try:
        with directory_at(staging, fresh) as made:
            give(made, owner)
        os.rename(fresh, name, src_dir_fd=staging, dst_dir_fd=parent)
    except BaseException as error:
        os.rmdir(fresh, dir_fd=staging)
        # Something has come to be there meanwhile; whoever opens it sees what.
        if not (isinstance(error, OSError) and error.errno in _TAKEN):
            raise

"""Moving what was prepared elsewhere into a workspace, on the same file system.

A directory that the workspace has already is gone into, once: what it has under the same name is
replaced, all else stays.
"""

import contextlib
import os
import stat

from kernelsvc.files.beneath import directory_at
from kernelsvc.files.tree import delete_tree, open_unlocked


def move_in(workspace: int, prepared: int, name: bytes) -> None:
    """Move `name` from the open directory `prepared`, if it is there; raises OSError.

    Nobody else uses `prepared`. The workspace's code may have put anything in its place there.
    """
    try:
        status = os.stat(name, dir_fd=prepared, follow_symlinks=False)
    except FileNotFoundError:
        return
    there = open_unlocked(workspace, name) if stat.S_ISDIR(status.st_mode) else None
    if there is None:
        _replace(workspace, prepared, name)
        return
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, there)
        new = stack.enter_context(directory_at(prepared, name))
        for entry in os.listdir(new):
            _replace(there, new, os.fsencode(entry))


def _replace(target: int, source: int, name: bytes) -> None:
    delete_tree(target, name)
    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)

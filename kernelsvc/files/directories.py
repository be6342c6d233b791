"""Directories of a workspace, as callers make and delete them.

The functions block and are called in a thread. Paths are those of `kernelsvc.files.path`.
"""

import errno
import os

from kernelsvc.errors import DirectoryNotEmpty
from kernelsvc.files.beneath import open_beneath
from kernelsvc.files.contents import info_of
from kernelsvc.files.placing import make_directories
from kernelsvc.files.told import shown, told
from kernelsvc.files.workspace import Workspaces
from kernelsvc.models.file import FileInfo

_DIRECTORY = os.O_PATH | os.O_DIRECTORY


def make_directory(workspaces: Workspaces, session_id: str, path: bytes) -> FileInfo:
    """Make the directory and those above it; one that is there stays as it is."""
    with (
        told(path),
        workspaces.staging() as staging,
        workspaces.directory(session_id) as workspace,
    ):
        made = make_directories(workspace, path, staging, workspaces.owner)
        try:
            return info_of(path + b"/", os.fstat(made))
        finally:
            os.close(made)


def delete_directory(
    workspaces: Workspaces, session_id: str, path: bytes, *, recursive: bool
) -> None:
    """Delete a directory, which must be empty unless `recursive`; then all of it goes at once.

    Raises DirectoryNotEmpty, FileNotFound, NotARegularFile and FileNotAccessible.
    """
    above, _, name = path.rpartition(b"/")
    with told(path), workspaces.directory(session_id) as workspace:
        parent = open_beneath(workspace, above or b".", _DIRECTORY)
        try:
            # What it is, is looked at first: `rmdir` and the trash would tell of it differently.
            os.close(open_beneath(parent, name, _DIRECTORY))
            if recursive:
                workspaces.throw_away(parent, name, session_id)
            else:
                os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise DirectoryNotEmpty(shown(path)) from None
            raise
        finally:
            os.close(parent)

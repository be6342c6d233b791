"""Files that a new workspace begins with, before anything runs in it."""

import os
from collections.abc import Iterator, Mapping

from kernelsvc.errors import FieldProblem, InvalidRequest
from kernelsvc.files.charge import LEAST_CHARGE, charge_of
from kernelsvc.files.directory import give
from kernelsvc.files.path import changeable_path
from kernelsvc.files.placing import make_directories
from kernelsvc.files.told import told
from kernelsvc.files.workspace import Workspaces

_FIELD = "files"
_MOST = 1000
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644


def checked(files: Mapping[str, bytes], limit: int | None) -> dict[bytes, bytes]:
    """The files by path as the file system takes it; raises InvalidRequest, which names the file.

    `limit` is what they may count for together with their directories, in bytes; None for no limit.
    Of files and directories there may be 1,000.
    """
    by_path: dict[bytes, bytes] = {}
    directories: set[bytes] = set()
    for text, data in files.items():
        path = changeable_path(text, f"{_FIELD}.{text}")
        by_path[path] = data
        directories.update(_above(path))
        if len(by_path) + len(directories) > _MOST:
            raise _refusal(f"are more than {_MOST}, directories included; a session takes archives")
    for path in directories & by_path.keys():
        raise _refusal("is a file, and a directory that another file is in", path)
    size = LEAST_CHARGE * len(directories) + sum(charge_of(len(data)) for data in by_path.values())
    if limit is not None and size > limit:
        raise _refusal(f"count for {size} bytes, more than the limit `disk`, which is {limit}")
    return by_path


def _above(path: bytes) -> Iterator[bytes]:
    """The directories that a file is in, the nearest first; the first 1,000 of them."""
    for _ in range(_MOST):
        path = path.rpartition(b"/")[0]
        if not path:
            return
        yield path


def _refusal(problem: str, path: bytes | None = None) -> InvalidRequest:
    field = _FIELD if path is None else f"{_FIELD}.{path.decode()}"
    return InvalidRequest([FieldProblem(field, problem)])


def fill(workspaces: Workspaces, session_id: str, files: Mapping[bytes, bytes]) -> None:
    """Put checked files into a workspace that is empty and that no code has yet; blocks.

    Raises StorageFull.
    """
    owner = workspaces.owner
    with workspaces.staging() as staging, workspaces.directory(session_id) as workspace:
        for path, data in files.items():
            directory, _, name = path.rpartition(b"/")
            with told(path):
                parent = make_directories(workspace, directory, staging, owner)
                try:
                    file = os.open(name, _NEW, 0o600, dir_fd=parent)
                finally:
                    os.close(parent)
                with os.fdopen(file, "wb") as output:
                    os.fchmod(file, _MODE)
                    give(file, owner)
                    output.write(data)

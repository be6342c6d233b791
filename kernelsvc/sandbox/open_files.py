"""Files that have no name any more, and take room all the same while a process has them open."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 512
_MAPPED = re.compile(rb"^(\w+)-(\w+) \S+ \S+ (\w+):(\w+) (\d+) .*\(deleted\)$", re.MULTILINE)


def unnamed_bytes(root: int, directory: Path) -> int:
    """What processes from `root` downwards hold of deleted files on `directory`'s file system.

    Files that are open count for what they take of the disk, those that are only mapped for what is
    mapped of them. Blocks for as long as it takes to read some files of /proc for each process.
    """
    device = directory.stat().st_dev
    taken: dict[int, int] = {}
    mapped: dict[int, int] = {}
    for pid in descendants(root):
        taken.update(_open(pid, device))
        for inode, size in _mapped(pid, device):
            mapped[inode] = max(size, mapped.get(inode, 0))
    return sum((mapped | taken).values())


def descendants(root: int) -> Iterator[int]:
    """The processes from `root` downwards."""
    queue = [root]
    while queue:
        pid = queue.pop()
        yield pid
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                queue += map(int, children.split())


def _open(pid: int, device: int) -> Iterator[tuple[int, int]]:
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat()
                if status.st_nlink == 0 and status.st_dev == device:
                    yield status.st_ino, status.st_blocks * _BLOCK


def _mapped(pid: int, device: int) -> Iterator[tuple[int, int]]:
    try:
        maps = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return
    sizes: dict[int, int] = {}
    for start, end, major, minor, inode in _MAPPED.findall(maps):
        if os.makedev(int(major, 16), int(minor, 16)) == device:
            sizes[int(inode)] = sizes.get(int(inode), 0) + int(end, 16) - int(start, 16)
    yield from sizes.items()

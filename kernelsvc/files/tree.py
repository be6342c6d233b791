"""Going through a tree that its owner changes meanwhile, and deleting one.

Both work by descriptors, in a loop, with two or three of them open at a time: no depth is too deep.
The way up is `..`, which leads wherever the code has moved the directory to: it is taken only if
that is the directory that we came down from. Else the way is gone down again from the top.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kernelsvc.files.beneath import Identity, identity_of, open_beneath
from kernelsvc.files.path import MAX_PATH_BYTES

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PASSES = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a tree.

    `path` is relative to the top, None where it is longer than a path can be. `directory` is the
    open directory that it is in; it is good until the next entry is asked for.
    """

    directory: int
    name: bytes
    path: bytes | None
    status: os.stat_result


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its name in the one above, and what is to be done in it."""

    name: bytes
    identity: Identity
    path: bytes | None
    pending: list[bytes] = field(default_factory=list)


def walk(top: int, *, unlock: bool = False) -> Iterator[Entry]:
    """Everything below the open directory `top`, directories before what is in them.

    In no order, and without what cannot be read or is on another device; with `unlock`, what cannot
    be read is made readable. What comes, goes or moves meanwhile may be missing.
    """
    device = os.fstat(top).st_dev
    current = os.open(".", _LIST, dir_fd=top)
    try:
        level = _Level(b"", identity_of(current), b"")
        yield from _scan(current, level, device)
        levels = [level]
        while levels:
            if not levels[-1].pending:
                levels.pop()
                if levels:
                    above = _climb(top, current, levels)
                    os.close(current)
                    current = above
                continue
            name = levels[-1].pending.pop()
            below = _opened(current, name, unlock=unlock)
            if below is None:
                continue
            os.close(current)
            current = below
            level = _Level(name, identity_of(current), _join(levels[-1].path, name))
            levels.append(level)
            yield from _scan(current, level, device)
    finally:
        os.close(current)


def _opened(current: int, name: bytes, *, unlock: bool) -> int | None:
    try:
        return open_beneath(current, name, _LIST)
    except OSError:
        return open_unlocked(current, name) if unlock else None


def _scan(current: int, level: _Level, device: int) -> Iterator[Entry]:
    try:
        with os.scandir(current) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if status.st_dev != device:
                    continue
                name = os.fsencode(entry.name)
                if stat.S_ISDIR(status.st_mode):
                    level.pending.append(name)
                yield Entry(current, name, _join(level.path, name), status)
    except OSError:
        return


def _join(path: bytes | None, name: bytes) -> bytes | None:
    if path is None or len(path) + 1 + len(name) > MAX_PATH_BYTES:
        return None
    return path + b"/" + name if path else name


def _climb(top: int, current: int, levels: list[_Level]) -> int:
    """The directory of the last level, which is the one above `current`.

    Where the way back is lost, levels are dropped until one is found again.
    """
    try:
        above = os.open("..", _LIST, dir_fd=current)
    except OSError:
        return _descend(top, levels)
    if identity_of(above) == levels[-1].identity:
        return above
    os.close(above)
    return _descend(top, levels)


def _descend(top: int, levels: list[_Level]) -> int:
    """Go the way down again from the top as far as it still is as it was; drop what is not."""
    current = os.open(".", _LIST, dir_fd=top)
    for depth, level in enumerate(levels[1:], 1):
        try:
            below = open_beneath(current, level.name, _LIST)
        except OSError:
            below = None
        if below is None or identity_of(below) != level.identity:
            if below is not None:
                os.close(below)
            del levels[depth:]
            break
        os.close(current)
        current = below
    return current


# ---- deleting


def delete_tree(parent: int, name: bytes) -> int:
    """Delete what has this name in the open directory `parent`; returns how much could not be.

    Links are deleted, not followed; directories that their owner has locked against itself are
    unlocked; another device is not entered. Code that still runs may add to the tree meanwhile, so
    what is left over is tried again.
    """
    left = 0
    for _ in range(_PASSES):
        left = _delete_once(parent, name)
        if left == 0:
            break
    return left


def _delete_once(parent: int, name: bytes) -> int:
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return 0
    except FileNotFoundError:
        return 0
    except OSError:
        return 1
    top = open_unlocked(parent, name)
    if top is None:
        return 1
    try:
        return _empty(top) + _remove_directory(parent, name)
    finally:
        os.close(top)


def empty_directory(top: int) -> int:
    """Delete everything in the open directory `top`; returns how much could not be."""
    left = 0
    for _ in range(_PASSES):
        left = _empty(top)
        if left == 0:
            break
    return left


def _empty(top: int) -> int:
    current = os.open(".", _LIST, dir_fd=top)
    try:
        level = _Level(b"", identity_of(current), None)
        left = _unlink_files(current, level)
        levels = [level]
        while levels:
            if levels[-1].pending:
                below = open_unlocked(current, levels[-1].pending[-1])
                if below is None:
                    levels[-1].pending.pop()
                    left += 1
                    continue
                os.close(current)
                current = below
                level = _Level(levels[-1].pending.pop(), identity_of(current), None)
                left += _unlink_files(current, level)
                levels.append(level)
                continue
            done = levels.pop()
            if levels:
                depth = len(levels)
                above = _climb(top, current, levels)
                os.close(current)
                current = above
                if len(levels) == depth:
                    left += _remove_directory(current, done.name)
                else:
                    left += 1
        return left
    finally:
        os.close(current)


def _unlink_files(current: int, level: _Level) -> int:
    """Delete what is no directory in `current`; directories become the level's `pending`."""
    left = 0
    try:
        with os.scandir(current) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                try:
                    if entry.is_dir(follow_symlinks=False):
                        level.pending.append(name)
                    else:
                        os.unlink(name, dir_fd=current)
                except FileNotFoundError:
                    continue
                except OSError:
                    left += 1
    except OSError:
        left += 1
    return left


def _remove_directory(parent: int, name: bytes) -> int:
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return 0
    except OSError:
        return 1
    return 0


def open_unlocked(parent: int, name: bytes) -> int | None:
    """A directory, made readable and writable for its owner, and opened; None where it cannot be.

    What is changed is the directory that was found, not whatever has its name by then.
    """
    try:
        found = open_beneath(parent, name, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        if os.fstat(found).st_mode & 0o700 != 0o700:
            Path(f"/proc/self/fd/{found}").chmod(0o700)
        return os.open(".", _LIST, dir_fd=found)
    except OSError:
        return None
    finally:
        os.close(found)

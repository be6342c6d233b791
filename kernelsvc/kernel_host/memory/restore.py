"""Reading a namespace back, in a kernel that has just started."""

import importlib.util
import os
import time
from dataclasses import dataclass, field
from typing import Any

from kernelsvc.kernel_host.memory.file import Frame, Index, Reader, Unusable
from kernelsvc.kernel_host.memory.pickler import LIVING, Unpickler, living
from kernelsvc.kernel_host.memory.save import TooSlow, reason_of, within
from kernelsvc.kernel_host.memory.state import PARTS

_SHARE_OF_TIME = 0.25


class Missing(Exception):
    """What a frame refers to could not be restored; says whose it was."""


@dataclass
class Restored:
    """The names of what is there again, and of what is not, with reasons."""

    names: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def restore(shell: Any, path: str, token: str, seconds: float) -> Restored:
    """Put back what is in the file, as far as that works; raises Unusable and OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        reader = Reader(fd)
        _check(reader.index, token)
        return _Restore(shell, reader, seconds).run()
    finally:
        os.close(fd)


def _check(index: Index, token: str) -> None:
    if index.token != token:
        raise Unusable("its file is not the one that was written when the session fell asleep")
    if index.bytecode != importlib.util.MAGIC_NUMBER.hex():
        raise Unusable(f"it was written by Python {index.python}")


class _Restore:
    def __init__(self, shell: Any, reader: Reader, seconds: float) -> None:
        self._shell = shell
        self._reader = reader
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._living = living(shell)
        self._exports: dict[tuple[str, str], list[Any]] = {}
        self._failed: dict[tuple[str, str], str] = {}
        self._restored: list[str] = []

    def run(self) -> Restored:
        waiting = self._reader.index.frames
        # What is made by code that uses a global variable may need one that comes later.
        while waiting:
            left = [frame for frame in waiting if not self._load(frame)]
            if len(left) == len(waiting):
                break
            waiting = left
        failed = [(name, reason) for (_, name), reason in self._failed.items()]
        return Restored(self._restored, self._reader.index.left_out + failed)

    def _load(self, frame: Frame) -> bool:
        """Restore what is in a frame; whether it was."""
        key = (frame.kind, frame.name)
        try:
            pickled, buffers = self._reader.read(frame)
            left = min(self._seconds * _SHARE_OF_TIME, self._until - time.monotonic())
            if left <= 0:
                raise Unusable("there was no time left to read it")
            with within(left):
                value, exports = Unpickler(pickled, buffers, self._find).load()
                self._put(frame, value)
        except TooSlow:
            self._failed[key] = f"to read it takes more than {left:.2g} s"
            return False
        except BaseException as error:  # noqa: BLE001  # the code's own may raise anything
            self._failed[key] = (
                str(error) if isinstance(error, Unusable | Missing) else reason_of(error)
            )
            return False
        self._exports[key] = exports
        self._failed.pop(key, None)
        return True

    def _find(self, reference: Any) -> Any:
        kind, name, *number = reference
        if kind == LIVING:
            return self._living[name]
        exports = self._exports.get((kind, name))
        if exports is None:
            raise Missing(f"it shares objects with {name}, which could not be restored")
        return exports[number[0]]

    def _put(self, frame: Frame, value: Any) -> None:
        match frame.kind:
            case "variable":
                self._shell.user_ns[frame.name] = value
                self._restored.append(frame.name)
            case "output":
                _put_output(self._shell, frame.name, value)
            case "state":
                PARTS[frame.name].put(self._shell, value)
            case "all":
                for (kind, name), one in value:
                    self._put(Frame(kind, name, 0), one)


def _put_output(shell: Any, name: str, value: Any) -> None:
    """The result of a run, as IPython keeps it: Out[3] is _3, too."""
    if name.startswith("Out["):
        number = int(name[4:-1])
        shell.history_manager.output_hist[number] = value
        shell.user_ns[f"_{number}"] = value
    else:
        setattr(shell.displayhook, name, value)
        shell.user_ns[name] = value

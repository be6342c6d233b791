"""Writing a namespace to a file. Done in a forked copy of the kernel, which ends afterwards."""

import importlib.util
import os
import platform
import re
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError
from typing import Any

from kernelsvc.kernel_host.memory.file import Index, NoRoom, Writer, open_new
from kernelsvc.kernel_host.memory.pickler import LIVING, living
from kernelsvc.kernel_host.memory.reducers import Refused
from kernelsvc.kernel_host.memory.sharing import Key, Known, Plan, Scout, Seen, TooMany

_HISTORY = re.compile("_|__|___|_i|_ii|_iii|_ih|_oh|_dh|_i?[0-9]+")
_MODULES_OWN = {"__builtin__", "__builtins__", "__warningregistry__"}
_LIBRARIES = ("numpy", "pandas", "matplotlib", "scipy", "sklearn", "torch", "polars", "pyarrow")
_SHARE_OF_TIME = 0.25
"""So much of all the time may one thing take."""
_RESERVE = 0.1
_AGAIN_SECONDS = 0.2
_DEEPEST = 20_000
"""How deep the pickler may call itself: half of what 8 MiB of stack have been seen to bear."""

_INDEX_BYTES = 1024
"""Kept free for what the index says of one thing."""

_STATE, _DEFINITION, _VALUE, _OUTPUT, _LAST = range(5)
"""The order in which things are written, and read: what is needed to make others comes first."""


@dataclass(frozen=True)
class Order:
    """What is to be written: to which path, for whom, how much at most, and how soon."""

    path: str
    token: str
    most_bytes: int
    seconds: float


class TooSlow(BaseException):
    """Something takes too long. No Exception: what it interrupts should not catch it."""


def names_of(shell: Any) -> list[str]:
    """The variables of a session, in the order in which they were first assigned."""
    nothing, hidden = object(), shell.user_ns_hidden
    of_module = vars(type(shell.user_module)("")).keys() | _MODULES_OWN
    return [
        name
        for name, value in list(shell.user_ns.items())
        if isinstance(name, str)
        and hidden.get(name, nothing) is not value
        and name not in of_module
        and not _HISTORY.fullmatch(name)
    ]


def write(
    shell: Any,
    parts: dict[str, Any],
    order: Order,
    at: Callable[[str], None],
    without: Mapping[str, str],
) -> Index:
    """Write what the shell's namespace holds, and `parts`; returns what is in the file then.

    `at` is called with the name of what is being worked on, and again while it gets on. What has a
    name of those in `without` is left out, for the reason there. Raises OSError.
    """
    return _Save(shell, parts, order, at, without).run()


class _Save:
    def __init__(
        self,
        shell: Any,
        parts: dict[str, Any],
        order: Order,
        at: Callable[[str], None],
        without: Mapping[str, str],
    ) -> None:
        self._shell = shell
        self._order = order
        self._at = at
        self._without = without
        self._living: Known = {
            id(thing): (thing, (LIVING, name)) for name, thing in living(shell).items()
        }
        self._scout = Scout(self._living)
        self._things: dict[Key, Any] = {("state", name): part for name, part in parts.items()}
        self._things |= _variables(shell)
        for key in [key for key in self._things if key[1] in without]:
            del self._things[key]
        self._left_out: dict[Key, str] = {}
        self._until = time.monotonic() + order.seconds * (1 - _RESERVE)
        self._doing, self._said = "", 0.0

    def run(self) -> Index:
        sys.setrecursionlimit(max(_DEEPEST, sys.getrecursionlimit()))
        try:
            seen = self._look()
        except TooMany:
            seen = self._look_at_all_as_one()
        temporary = self._order.path + ".new"
        fd = open_new(temporary)
        try:
            index = self._write(fd, Plan(seen, self._living))
            os.replace(temporary, self._order.path)
        except BaseException:
            Path(temporary).unlink()
            raise
        finally:
            os.close(fd)
        return index

    def _look(self) -> dict[Key, Seen]:
        """What can be pickled."""
        seen = {}
        for key, value in self._things.items():
            with self._attempt(key, self._order.seconds * _SHARE_OF_TIME):
                seen[key] = self._scout.look(value, _rank(key, value))
        return seen

    def _look_at_all_as_one(self) -> dict[Key, Seen]:
        """For a namespace with very many objects: who shares what need not be known."""
        self._left_out.clear()
        for key, value in list(self._things.items()):
            with self._attempt(key, self._order.seconds * _SHARE_OF_TIME):
                self._scout.look(value, _rank(key, value), remember=False)
        fine = [(key, value) for key, value in self._things.items() if key not in self._left_out]
        fine.sort(key=lambda item: _rank(*item))
        return {("all", "all variables"): Seen(fine, _STATE, refers=True)}

    def _write(self, fd: int, plan: Plan) -> Index:
        index = Index(
            token=self._order.token,
            python=platform.python_version(),
            bytecode=importlib.util.MAGIC_NUMBER.hex(),
            created_at=time.time(),
            libraries={
                name: str(getattr(sys.modules[name], "__version__", ""))
                for name in _LIBRARIES
                if name in sys.modules
            },
        )
        room = self._order.most_bytes - _INDEX_BYTES * (len(self._things) + 1)
        writer = Writer(fd, room, self._until, self._alive)
        for key in plan.order:
            with (
                self._attempt(key, self._until - time.monotonic()),
                writer.frame(*key) as (frame, buffers),
            ):
                plan.pickle(key, writer, buffers, self._left_out)
            if key not in self._left_out:
                index.frames.append(frame)
        while True:
            index.left_out = [(name, reason) for (_, name), reason in self._left_out.items()]
            index.left_out += self._without.items()
            try:
                writer.finish(index)
            except OSError as error:
                if not index.frames:
                    raise
                # The disk is full to the last byte: give back what was written last.
                last = index.frames.pop()
                writer.take_back(last)
                self._left_out[last.kind, last.name] = f"it could not be written: {error.strerror}"
            else:
                return index

    @contextmanager
    def _attempt(self, key: Key, seconds: float) -> Iterator[None]:
        """Whatever keeps this thing from being written, or takes it longer, is noted."""
        self._doing = key[1]
        self._at(key[1])
        left = min(seconds, self._until - time.monotonic())
        try:
            if left <= 0:
                raise NoRoom("there was no time left to write it")
            with within(left):
                yield
        except TooMany:
            raise
        except TooSlow:
            self._left_out[key] = f"to write it takes more than {left:.2g} s"
        except BaseException as error:  # noqa: BLE001  # the code's own may raise anything
            self._left_out[key] = reason_of(error)

    def _alive(self) -> None:
        if (now := time.monotonic()) - self._said > _AGAIN_SECONDS:
            self._said = now
            self._at(self._doing)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the main thread after that time, and again while that is swallowed."""

    def interrupt(signum: int, frame: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _variables(shell: Any) -> dict[Key, Any]:
    """What a session's code has names for, the results of its runs behind the others."""
    found: dict[Key, Any] = {("variable", name): shell.user_ns[name] for name in names_of(shell)}
    for number, value in list(shell.history_manager.output_hist.items()):
        found["output", f"Out[{number}]"] = value
    for name in ("_", "__", "___"):
        value = getattr(shell.displayhook, name, "")
        if not (isinstance(value, str) and value == ""):
            found["output", name] = value
    return found


def _rank(key: Key, value: Any) -> int:
    match key[0], value:
        case "state", _:
            return _LAST if "random" in key[1] else _STATE
        case "output", _:
            return _OUTPUT
        case _, type() | types.FunctionType() | types.ModuleType():
            return _DEFINITION
    return _VALUE


def reason_of(error: BaseException) -> str:
    """Why something cannot be pickled or unpickled, in a few words."""
    match error:
        case Refused() | NoRoom():
            return str(error)
        case RecursionError() | PicklingError(__cause__=RecursionError()):
            return "it is nested too deeply"
        case MemoryError():
            return "there is not enough memory for it"
    try:
        said = str(error)
    except Exception:  # noqa: BLE001  # the code's own exception
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__

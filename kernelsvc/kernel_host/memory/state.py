"""What a session's code may have changed of its process, and expects to find so.

The environment, the search path and the working directory as they were when the kernel began are
its `Baseline`: what differs from them was the code's doing, and only that is carried over.
"""

import contextlib
import importlib
import linecache
import logging
import os
import random
import re
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_INPUT = re.compile("_i[0-9]+")


@dataclass(frozen=True)
class Baseline:
    """What a kernel begins with."""

    environment: dict[str, str]
    path: list[str]
    directory: str

    @classmethod
    def now(cls) -> "Baseline":
        """That of this process, before code has run."""
        return cls(dict(os.environ), list(sys.path), os.getcwd())


@dataclass(frozen=True)
class Part:
    """Something of the process: `read` gives what is to be kept (None for nothing).

    `read` has the shell and the baseline; `put` has the shell, and what was read, in another.
    """

    read: Callable[[Any, Baseline], Any]
    put: Callable[[Any, Any], None]


def _read_environment(shell: Any, baseline: Baseline) -> Any:
    before, now = baseline.environment, dict(os.environ)
    changed = {name: value for name, value in now.items() if before.get(name) != value}
    return (changed, [name for name in before if name not in now]) if before != now else None


def _put_environment(shell: Any, kept: Any) -> None:
    changed, removed = kept
    os.environ.update(changed)
    for name in removed:
        os.environ.pop(name, None)


def _read_path(shell: Any, baseline: Baseline) -> Any:
    """What was added, each with what it stands before (None for nothing)."""
    added, before = list[tuple[str, str | None]](), None
    for entry in reversed(sys.path):
        if entry not in baseline.path:
            added.append((entry, before))
        before = entry
    return added or None


def _put_path(shell: Any, kept: Any) -> None:
    for entry, before in kept:
        place = sys.path.index(before) if before in sys.path else len(sys.path)
        if entry not in sys.path:
            sys.path.insert(place, entry)


def _read_directory(shell: Any, baseline: Baseline) -> Any:
    here = os.getcwd()
    return here if here != baseline.directory else None


def _put_directory(shell: Any, kept: Any) -> None:
    os.chdir(kept)


def _read_modules(shell: Any, baseline: Baseline) -> Any:
    """`import a.b` binds `a` and loads `a.b`: the submodules of what is bound by its own name."""
    bound = tuple(
        f"{name}."
        for name, value in shell.user_ns.items()
        if isinstance(value, types.ModuleType) and value.__name__ == name
    )
    return [name for name in list(sys.modules)
            if name.startswith(bound) and "._" not in name] or None  # fmt: skip


def _put_modules(shell: Any, kept: Any) -> None:
    for name in kept:
        if name not in sys.modules:
            importlib.import_module(name)


def _read_random(shell: Any, baseline: Baseline) -> Any:
    return random.getstate()


def _put_random(shell: Any, kept: Any) -> None:
    random.setstate(kept)


def _read_numpy_random(shell: Any, baseline: Baseline) -> Any:
    numpy = sys.modules.get("numpy.random")
    return None if numpy is None else numpy.get_state()


def _put_numpy_random(shell: Any, kept: Any) -> None:
    importlib.import_module("numpy.random").set_state(kept)


def _read_warnings(shell: Any, baseline: Baseline) -> Any:
    return list(warnings.filters)


def _put_warnings(shell: Any, kept: Any) -> None:
    warnings.filters[:] = kept  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _read_logging(shell: Any, baseline: Baseline) -> Any:
    """The root logger, where code has set it up."""
    root = logging.getLogger()
    is_set_up = root.level != logging.WARNING or root.handlers or root.filters
    return root if is_set_up else None


def _put_nothing(shell: Any, kept: Any) -> None:
    """To unpickle it has put it in place."""


def _read_figures(shell: Any, baseline: Baseline) -> Any:
    """The parameters of matplotlib that code has set."""
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is None:
        return None
    now, usual = dict(matplotlib.rcParams), matplotlib.rcParamsOrig
    changed = {name: value for name, value in now.items() if usual.get(name) != value}
    changed.pop("backend", None)
    return changed or None


def _put_figures(shell: Any, kept: Any) -> None:
    importlib.import_module("matplotlib").rcParams.update(kept)


def _read_history(shell: Any, baseline: Baseline) -> Any:
    """The code that has run, how far it was counted, and how tracebacks find its lines."""
    history = shell.history_manager
    return {
        "raw": list(history.input_hist_raw),
        "parsed": list(history.input_hist_parsed),
        "latest": {name: getattr(history, name) for name in ("_i00", "_i", "_ii", "_iii")},
        "by_number": {n: code for n, code in shell.user_ns.items() if _INPUT.fullmatch(str(n))},
        "count": shell.execution_count,
        "sources": {
            name: entry
            for name, entry in linecache.cache.items()
            if len(entry) == 4 and entry[1] is None
        },
        "numbers": dict(shell.compile._filename_map),
        # A `from __future__` holds for the runs behind it.
        "flags": shell.compile.flags,
    }


def _put_history(shell: Any, kept: Any) -> None:
    history = shell.history_manager
    history.input_hist_raw[:], history.input_hist_parsed[:] = kept["raw"], kept["parsed"]
    for name, code in kept["latest"].items():
        setattr(history, name, code)
        if name != "_i00":
            shell.user_ns[name] = code
    shell.user_ns.update(kept["by_number"])
    shell.execution_count = kept["count"]
    linecache.cache.update(kept["sources"])
    shell.compile._filename_map.update(kept["numbers"])
    shell.compile.flags = kept["flags"]


PARTS: dict[str, Part] = {
    "the working directory": Part(_read_directory, _put_directory),
    "sys.path": Part(_read_path, _put_path),
    "the environment": Part(_read_environment, _put_environment),
    "submodules": Part(_read_modules, _put_modules),
    "the history": Part(_read_history, _put_history),
    "filters of warnings": Part(_read_warnings, _put_warnings),
    "the root logger": Part(_read_logging, _put_nothing),
    "matplotlib.rcParams": Part(_read_figures, _put_figures),
    "the state of random": Part(_read_random, _put_random),
    "the state of numpy.random": Part(_read_numpy_random, _put_numpy_random),
}
"""By what each is called where it cannot be carried over, in the order in which they are put."""


def read_parts(shell: Any, baseline: Baseline) -> dict[str, Any]:
    """What there is to keep of the process; what cannot even be read is left as it will be."""
    found = {}
    for name, part in PARTS.items():
        with contextlib.suppress(Exception):
            if (kept := part.read(shell, baseline)) is not None:
                found[name] = kept
    return found

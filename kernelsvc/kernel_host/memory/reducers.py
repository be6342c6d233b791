"""How things are pickled that the standard pickler cannot, and cloudpickle should not.

A reducer says by what call a thing is made again (`makers`), or raises Refused.
"""

import functools
import gc
import io
import logging
import marshal
import pickle
import subprocess
import sys
import threading
import types
import typing
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from kernelsvc.kernel_host.memory.makers import (
    make_cached,
    module_globals,
    set_cell,
    set_function_state,
    set_logger,
)

_Reduced = tuple[Any, ...] | str


class Refused(pickle.PicklingError):
    """This is not carried over a sleep; says what it is."""


# ---- functions


def is_importable(thing: Any) -> bool:
    """Whether it is an attribute of a module by which it is found again."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module is None or module.__name__ == "__main__":
        return False
    found: Any = module
    for part in thing.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is thing


def _module_of(namespace: dict[str, Any]) -> str | None:
    """The module whose globals these are; None where they are no module's that can be imported."""
    name = namespace.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    is_its = module is not None and vars(module) is namespace
    return name if is_its and getattr(module, "__spec__", None) is not None else None


class _ModuleGlobals:
    """Stands for the globals of a module in a pickle."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return module_globals, (self._name,)


_FUNCTION_STATE = ("__defaults__", "__kwdefaults__", "__doc__", "__module__", "__qualname__")
_ANNOTATIONS = "__annotate__" if hasattr(is_importable, "__annotate__") else "__annotations__"


def reduce_function(function: types.FunctionType) -> _Reduced:
    """A function that is not found by its name."""
    namespace: Any = function.__globals__
    module = _module_of(namespace)
    if module is not None and module != "__main__":
        namespace = _ModuleGlobals(module)
    # Its closure is given to it as it is: cells are objects, which functions share.
    made_of = (function.__code__, namespace, function.__name__, None, function.__closure__)
    state = {name: getattr(function, name) for name in (*_FUNCTION_STATE, _ANNOTATIONS)}
    if type_params := getattr(function, "__type_params__", None):
        state["__type_params__"] = type_params
    said = (dict(function.__dict__), state)
    return types.FunctionType, made_of, said, None, None, set_function_state


def _reduce_code(code: types.CodeType) -> _Reduced:
    # With the name of its file, by which tracebacks find its lines.
    return marshal.loads, (marshal.dumps(code),)


def _reduce_cell(cell: types.CellType) -> _Reduced:
    try:
        held = cell.cell_contents
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), (held,), None, None, set_cell


def _reduce_cached(cached: Any) -> _Reduced:
    """A function in a cache; the cache begins empty."""
    if is_importable(cached):
        return cached.__qualname__  # type: ignore[no-any-return]
    asked = cached.cache_parameters()
    state = (dict(cached.__dict__), dict[str, Any]())
    made = (cached.__wrapped__, asked["maxsize"], asked["typed"])
    return make_cached, made, state, None, None, set_function_state


def _reduce_new_type(new_type: Any) -> _Reduced:
    if is_importable(new_type):
        return new_type.__qualname__  # type: ignore[no-any-return]
    return typing.NewType, (new_type.__name__, new_type.__supertype__), vars(new_type)


# ---- classes


def is_ours(kind: type) -> bool:
    """Whether a run has defined it."""
    return kind.__module__ != "builtins" and not is_importable(kind)


# ---- what belongs to a process


def _reduce_lock(lock: Any) -> _Reduced:
    if lock.locked():
        raise Refused("a lock that is held")
    return threading.Lock, ()


def _reduce_rlock(lock: Any) -> _Reduced:
    if lock._is_owned() or not lock.acquire(blocking=False):
        raise Refused("a lock that is held")
    lock.release()
    return threading.RLock, ()


def _reduce_file(file: Any) -> _Reduced:
    raise Refused(f"{'a closed' if file.closed else 'an open'} file")


def _reduce_logger(logger: Any) -> _Reduced:
    state = {"level": logger.level, "handlers": logger.handlers, "filters": logger.filters}
    if isinstance(logger, logging.RootLogger):
        return logging.getLogger, (), state, None, None, set_logger
    state |= {"propagate": logger.propagate, "disabled": logger.disabled}
    return logging.getLogger, (logger.name,), state, None, None, set_logger


# ---- views of something else


def _reduce_memoryview(view: memoryview) -> _Reduced:
    whole = memoryview(view.obj)
    if (view.nbytes, view.format, view.shape) != (whole.nbytes, whole.format, whole.shape):
        raise Refused("a view of a part of some memory")
    if view.readonly and not whole.readonly:
        return memoryview.toreadonly, (whole,)
    return memoryview, (view.obj,)


def _reduce_view(method: Any, view: Any) -> _Reduced:
    """The view of a dict, as its `method` makes it."""
    return method, tuple(gc.get_referents(view))


def _reduce_reference(reference: Any) -> _Reduced:
    if reference() is None or reference.__callback__ is not None:
        raise Refused("a weak reference")
    return weakref.ref, (reference(),)


def _reduce_weak_dict(weak: Any) -> _Reduced:
    return type(weak), (dict(weak.items()),)


RUNNING = (threading.Thread, subprocess.Popen, Future, io.BufferedIOBase, io.RawIOBase)


def refuse_what_runs(thing: Any) -> None:
    """Raise Refused for what would be a stranger, or wait for ever, in another process.

    Only what is an instance of `RUNNING` may be such a thing.
    """
    match thing:
        case threading.Thread() if thing._started.is_set():  # type: ignore[attr-defined]
            raise Refused("a thread that was started")
        case subprocess.Popen():
            raise Refused("a process that was started")
        case Future() if not thing.done():
            raise Refused("a future that is not done")
        case io.BufferedIOBase() | io.RawIOBase() if not isinstance(thing, io.BytesIO):
            _reduce_file(thing)


REDUCERS: dict[type, Callable[[Any], _Reduced]] = {
    types.CodeType: _reduce_code,
    types.CellType: _reduce_cell,
    type(make_cached(is_importable, 1, False)): _reduce_cached,
    typing.NewType: _reduce_new_type,
    type(threading.Lock()): _reduce_lock,
    type(threading.RLock()): _reduce_rlock,
    io.TextIOWrapper: _reduce_file,
    logging.Logger: _reduce_logger,
    logging.RootLogger: _reduce_logger,
    memoryview: _reduce_memoryview,
    **{
        type(method(kind())): functools.partial(_reduce_view, method)
        for kind in (dict, OrderedDict)
        for method in (kind.keys, kind.values, kind.items)
    },
    weakref.ref: _reduce_reference,
    weakref.WeakKeyDictionary: _reduce_weak_dict,
    weakref.WeakValueDictionary: _reduce_weak_dict,
}

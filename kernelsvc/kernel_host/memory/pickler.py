"""Pickling what a namespace holds so that it is there again, not something like it.

Classes that runs have defined are cloudpickle's business. Functions are ours: cloudpickle gives
each a copy of the globals that it uses and of its closure's variables, so that it would no longer
see what later runs assign, nor two closures what they have in common.

What could only be made to look like itself (a file's contents in place of the open file, a process
that has ended meanwhile) is refused.
"""

import builtins
import functools
import gc
import importlib
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
from collections import ChainMap, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ClassVar

import cloudpickle

_Reduced = tuple[Any, ...] | str
LIVING = "living"
"""Beside a name: what refers to something that every kernel has of its own."""
_IN_BAND_BYTES = 64 << 10
"""Buffers that are smaller go into the pickle itself."""


class Refused(pickle.PicklingError):
    """This is not carried over a sleep; says what it is."""


def living(shell: Any) -> dict[str, Any]:
    """What is never pickled, but found again by a name: the namespace, the shell, the streams."""
    found = {
        "namespace": shell.user_ns,
        "module": shell.user_module,
        "shell": shell,
        "builtins": vars(builtins),
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        "stdin": sys.stdin,
        "inputs": shell.history_manager.input_hist_parsed,
        "outputs": shell.history_manager.output_hist,
    }
    return {name: thing for name, thing in found.items() if thing is not None}


# ---- functions


def is_importable(thing: Any, name: str | None = None) -> bool:
    """Whether it is an attribute of a module by which it is found again."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module is None or module.__name__ == "__main__":
        return False
    found: Any = module
    for part in (name or thing.__qualname__).split("."):
        found = getattr(found, part, None)
    return found is thing


def _module_of(namespace: dict[str, Any]) -> str | None:
    """The module whose globals these are; None where they are no module's that can be imported."""
    name = namespace.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    is_its = module is not None and vars(module) is namespace
    return name if is_its and getattr(module, "__spec__", None) is not None else None


def module_globals(name: str) -> dict[str, Any]:
    """The globals of a module, imported where it is not yet."""
    return vars(importlib.import_module(name))


class _ModuleGlobals:
    """Stands for the globals of a module in a pickle."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return module_globals, (self._name,)


_FUNCTION_STATE = ("__defaults__", "__kwdefaults__", "__doc__", "__module__", "__qualname__")
_ANNOTATIONS = "__annotate__" if hasattr(is_importable, "__annotate__") else "__annotations__"


def _reduce_function(function: types.FunctionType) -> _Reduced:
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


def set_function_state(function: types.FunctionType, said: tuple[dict[str, Any], Any]) -> None:
    """What a function has besides what it is made of."""
    attributes, state = said
    function.__dict__.update(attributes)
    for name, value in state.items():
        setattr(function, name, value)


def _reduce_code(code: types.CodeType) -> _Reduced:
    # With the name of its file, by which tracebacks find its lines.
    return marshal.loads, (marshal.dumps(code),)


def _reduce_cell(cell: types.CellType) -> _Reduced:
    try:
        held = cell.cell_contents
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), (held,), None, None, set_cell


def set_cell(cell: types.CellType, held: tuple[Any]) -> None:
    """A variable of a closure, after the cell: it may hold the function that the cell is of."""
    (cell.cell_contents,) = held


def _reduce_cached(cached: Any) -> _Reduced:
    """A function in a cache; the cache begins empty."""
    if is_importable(cached):
        return cached.__qualname__  # type: ignore[no-any-return]
    asked = cached.cache_parameters()
    state = (dict(cached.__dict__), dict[str, Any]())
    made = (cached.__wrapped__, asked["maxsize"], asked["typed"])
    return make_cached, made, state, None, None, set_function_state


def make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """What functools.lru_cache makes of a function."""
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_new_type(new_type: Any) -> _Reduced:
    if is_importable(new_type):
        return new_type.__qualname__  # type: ignore[no-any-return]
    return typing.NewType, (new_type.__name__, new_type.__supertype__), vars(new_type)


# ---- classes

_HOOK = "__init_subclass__"


def _is_ours(kind: type) -> bool:
    """Whether a run has defined it."""
    return kind.__module__ != "builtins" and not is_importable(kind)


def make_class(hooked: list[type], make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """An empty class, without what its bases, if they are `hooked`, do for each that is defined.

    They have done it: what came of it is in what is restored, or yet to be.
    """
    hooks = [vars(base)[_HOOK] for base in hooked]
    for base in hooked:
        type.__setattr__(base, _HOOK, classmethod(lambda cls, **how: None))
    try:
        return make(*args)
    finally:
        for base, hook in zip(hooked, hooks, strict=True):
            type.__setattr__(base, _HOOK, hook)


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


def set_logger(logger: logging.Logger, state: dict[str, Any]) -> None:
    """What code has set of a logger."""
    logger.setLevel(state.pop("level"))
    for name, value in state.items():
        setattr(logger, name, value)


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


_RUNNING = (threading.Thread, subprocess.Popen, Future, io.BufferedIOBase, io.RawIOBase)


def _refuse_what_runs(thing: Any) -> None:
    """Raise Refused for what would be a stranger, or wait for ever, in another process."""
    match thing:
        case threading.Thread() if thing._started.is_set():  # type: ignore[attr-defined]
            raise Refused("a thread that was started")
        case subprocess.Popen():
            raise Refused("a process that was started")
        case Future() if not thing.done():
            raise Refused("a future that is not done")
        case io.BufferedIOBase() | io.RawIOBase() if not isinstance(thing, io.BytesIO):
            _reduce_file(thing)


_REDUCERS: dict[type, Callable[[Any], _Reduced]] = {
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


class Pickler(cloudpickle.Pickler):
    """Pickles into `file`; large buffers are listed in `buffers` instead."""

    dispatch_table: ClassVar[Any] = ChainMap(_REDUCERS, cloudpickle.Pickler.dispatch_table)

    def __init__(self, file: Any, buffers: list[pickle.PickleBuffer]) -> None:
        def keep(buffer: pickle.PickleBuffer) -> bool:
            with buffer.raw() as raw:
                if raw.nbytes < _IN_BAND_BYTES:
                    return True
            buffers.append(buffer)
            return False

        super().__init__(file, protocol=5, buffer_callback=keep)
        self._harmless: set[type] = set()

    def reducer_override(self, thing: Any) -> Any:
        """How a thing that is no builtin container is pickled; NotImplemented for as usual."""
        kind = type(thing)
        if kind in self._harmless:
            return NotImplemented
        if isinstance(thing, types.FunctionType):
            return NotImplemented if is_importable(thing) else _reduce_function(thing)
        if not isinstance(thing, type):
            if isinstance(thing, _RUNNING):
                _refuse_what_runs(thing)
            else:
                self._harmless.add(kind)
            return NotImplemented
        reduced = super().reducer_override(thing)
        if reduced is NotImplemented or len(reduced) == 2:
            return reduced
        make, args, state, *how = reduced
        # cloudpickle leaves out where in other classes a class was defined.
        state[0]["__qualname__"] = thing.__qualname__
        hooked = [base for base in thing.__mro__[1:] if _HOOK in vars(base) and _is_ours(base)]
        return make_class, (hooked, make, args), state, *how


class Unpickler(pickle.Unpickler):
    """Unpickles what a `Pickler` has; `find` gives what a reference stands for."""

    def __init__(self, file: Any, buffers: list[Any], find: Callable[[Any], Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._find = find

    def persistent_load(self, reference: Any) -> Any:
        """What was referred to."""
        return self._find(reference)

"""What pickles call to make things again.

Pickles name these functions and call them as they are here: to rename one, or to change what it
takes, makes another version of the format (`file.MAGIC`).
"""

import functools
import importlib
import logging
import types
from collections.abc import Callable
from typing import Any

HOOK = "__init_subclass__"


def module_globals(name: str) -> dict[str, Any]:
    """The globals of a module, imported where it is not yet."""
    return vars(importlib.import_module(name))


def set_function_state(function: types.FunctionType, said: tuple[dict[str, Any], Any]) -> None:
    """What a function has besides what it is made of."""
    attributes, state = said
    function.__dict__.update(attributes)
    for name, value in state.items():
        setattr(function, name, value)


def set_cell(cell: types.CellType, held: tuple[Any]) -> None:
    """A variable of a closure, after the cell: it may hold the function that the cell is of."""
    (cell.cell_contents,) = held


def make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """What functools.lru_cache makes of a function."""
    return functools.lru_cache(maxsize, typed)(function)


def make_class(hooked: list[type], make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """An empty class, without what its bases, if they are `hooked`, do for each that is defined.

    They have done it: what came of it is in what is restored, or yet to be.
    """
    hooks = [vars(base)[HOOK] for base in hooked]
    for base in hooked:
        type.__setattr__(base, HOOK, classmethod(lambda cls, **how: None))
    try:
        return make(*args)
    finally:
        for base, hook in zip(hooked, hooks, strict=True):
            type.__setattr__(base, HOOK, hook)


def set_logger(logger: logging.Logger, state: dict[str, Any]) -> None:
    """What code has set of a logger."""
    logger.setLevel(state.pop("level"))
    for name, value in state.items():
        setattr(logger, name, value)


def make_view(whole: Any, shape: Any, dtype: Any, begin: int, strides: Any, writeable: bool) -> Any:
    """An array in the memory of another."""
    # As bytes: not every kind of array lends its memory as it is.
    memory = whole.reshape(-1, order="A").view("uint8")
    view = type(whole)(shape, dtype, memory, begin, strides)
    if not writeable:
        view.flags.writeable = False
    return view

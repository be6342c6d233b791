"""Variables that are views of another variable's array: they see what is written to it.

Only what variables are bound to counts, not what is somewhere in other objects: pandas shares
memory between its objects, and would not know of it afterwards.
"""

import sys
from collections.abc import Iterable
from typing import Any

from kernelsvc.kernel_host.memory.makers import make_view

ORDER_BYTES = 1024
"""A bare array's frame is larger than the array, but by less than this."""

Views = dict[int, tuple[Any, Any]]
"""By `id()` of a view: the view, and the array that holds all of its memory."""


def views_among(values: Iterable[Any]) -> Views:
    """Which of the values are views of another that has all of their memory."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return {}
    kind: Any = numpy.ndarray
    arrays = [value for value in values if type(value) is kind and not value.dtype.hasobject]
    whole: dict[int, Any] = {}
    for array in arrays:
        root = _memory(array, kind)
        is_dense = array.flags.c_contiguous or array.flags.f_contiguous
        if is_dense and array.nbytes == _size(root):
            whole.setdefault(id(root), array)
    return {
        id(array): (array, whole[number])
        for array in arrays
        if (number := id(_memory(array, kind))) in whole and array is not whole[number]
    }


def _memory(array: Any, kind: Any) -> Any:
    """What the memory belongs to: an array, or what it was made from."""
    while isinstance(array, kind) and array.base is not None:
        array = array.base
    return array


def _size(memory: Any) -> int | None:
    """In bytes; None for what it cannot be told of."""
    if (size := getattr(memory, "nbytes", None)) is not None:
        return int(size)
    return len(memory) if isinstance(memory, bytes | bytearray) else None


def reduce_view(view: Any, whole: Any) -> tuple[Any, ...]:
    """How to make the view of the other array again."""
    begin = view.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    how = (view.shape, view.dtype, begin, view.strides, view.flags.writeable)
    return make_view, (whole, *how)

"""Which objects variables have in common, and with which of them each is written.

Theory of operation. Each variable is pickled once for nothing, one after the other: that tells how
large it is, whether it can be pickled at all, and which objects it comes across. Then they are put
in an order, and an object that several have come across belongs to the first of them, its *owner*:
the others refer to it. What is reached from an object is reached by whoever reaches the object; so
references lead to earlier frames only, whatever the order is.

Of most objects there is only one reference, that of what contains them: nobody else comes across
those, and they are not remembered. Those that are stay alive until the end, so that no number
(`id()`) means two things.
"""

import datetime
import decimal
import enum
import fractions
import pathlib
import re
import types
import uuid
from dataclasses import dataclass, field
from pickle import PickleBuffer
from sys import getrefcount
from typing import Any

from kernelsvc.kernel_host.memory.arrays import ORDER_BYTES, reduce_view, views_among
from kernelsvc.kernel_host.memory.file import Kind
from kernelsvc.kernel_host.memory.pickler import Pickler
from kernelsvc.kernel_host.memory.reducers import Refused, is_importable

MOST_REMEMBERED = 1_000_000
_SINGLE_REFERENCE = 3
"""What sys.getrefcount() says, at least, in `persistent_id` of what has one other reference."""
_VALUES = (
    int, float, complex, str, bytes, frozenset, type(None), type(...), type(NotImplemented), range,
    slice, types.ModuleType, types.CodeType, types.BuiltinFunctionType, re.Pattern, enum.Enum,
    decimal.Decimal, fractions.Fraction, uuid.UUID, pathlib.PurePath, datetime.date, datetime.time,
    datetime.timedelta, datetime.tzinfo,
)  # fmt: skip
"""What nobody can change, or is found by its name: whether two are one makes no difference."""
_DULL: frozenset[type] = frozenset((int, float, complex, bool, str, bytes, type(None)))
"""The most common of them."""
_KEEN: frozenset[type] = frozenset((list, dict, set, bytearray))
"""The most common of what can be changed."""

Key = tuple[Kind, str]
Known = dict[int, tuple[Any, Any]]
"""By `id()`: the thing itself, and what stands for it in a pickle."""


@dataclass
class Seen:
    """What pickling something has shown: how large it is, and what it came across.

    `refers` says whether that was among what is never pickled. What has a lower `rank` is written,
    and read, before what has a higher one.
    """

    value: Any
    rank: int
    size: int = 0
    things: dict[int, Any] = field(default_factory=dict)
    refers: bool = False


class TooMany(Exception):
    """More objects have several references than can be remembered."""


class _Nowhere:
    """A file that only counts."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.size += size
        return size


class Scout:
    """Pickles for nothing what is to be written, and remembers what several may refer to."""

    def __init__(self, living: Known) -> None:
        self._living = living
        self._left = MOST_REMEMBERED
        self._dull: set[type] = set(_DULL)

    def look(self, value: Any, rank: int, *, remember: bool = True) -> Seen:
        """Raises whatever keeps the value from being pickled, and TooMany."""
        nowhere, buffers, seen = _Nowhere(), list[PickleBuffer](), Seen(value, rank)
        left = self._left if remember else None
        scouting = _Scouting(nowhere, buffers, self._living, self._dull, seen.things, left)
        scouting.dump(value)
        seen.refers = scouting.refers
        seen.size = nowhere.size + sum(buffer.raw().nbytes for buffer in buffers)
        if type(value) in (tuple, frozenset):
            seen.things[id(value)] = value
        self._left -= len(seen.things)
        return seen


class _Scouting(Pickler):
    """Notes in `things`, `left` of them at most, what others may refer to.

    Nothing where `left` is None. What it is of no use to note is `dull`, by type, as it learns.
    """

    def __init__(
        self,
        file: Any,
        buffers: list[PickleBuffer],
        living: Known,
        dull: set[type],
        things: dict[int, Any],
        left: int | None,
    ) -> None:
        super().__init__(file, buffers)
        self.refers = False
        self._living = living
        self._dull = dull
        self._things = things
        self._left = left

    def persistent_id(self, thing: Any) -> Any:
        """What stands for the thing; called for everything, so what is most common comes first."""
        if type(thing) in self._dull or getrefcount(thing) <= _SINGLE_REFERENCE:
            return None
        number = id(thing)
        if number in self._things:
            return None
        if number in self._living:
            self.refers = True
            return self._living[number][1]
        if self._left is not None and (type(thing) in _KEEN or self._matters(thing)):
            self._things[number] = thing
            if len(self._things) > self._left:
                raise TooMany
        return None

    def _matters(self, thing: Any) -> bool:
        kind = type(thing)
        if kind is types.ModuleType:
            return False
        if _is_value(kind):
            self._dull.add(kind)
            return False
        return not (
            isinstance(thing, type | types.FunctionType)
            and (thing.__module__ == "builtins" or is_importable(thing))
        )


def _is_value(kind: type) -> bool:
    """Whether two of that type are as good as one."""
    if issubclass(kind, _VALUES) or (issubclass(kind, tuple) and not kind.__dictoffset__):
        return True
    return any(
        base.__name__ in ("dtype", "ExtensionDtype")
        and base.__module__.partition(".")[0] in ("numpy", "pandas")
        for base in kind.__mro__
    )


class Plan:
    """In which order to write what was seen, and who owns what."""

    def __init__(self, seen: dict[Key, Seen], living: Known) -> None:
        self.views = views_among(each.value for each in seen.values())
        self._place_views(seen)
        self.order = sorted(seen, key=lambda key: (seen[key].rank, seen[key].size))
        self.places: dict[Any, int] = {key: place for place, key in enumerate(self.order)}
        self.known = dict(living)
        self._seen = seen
        self._exports: dict[Key, list[Any]] = {key: [] for key in seen}
        owners: dict[int, Key] = {}
        for key in self.order:
            for number, thing in seen[key].things.items():
                owner = owners.setdefault(number, key)
                if owner == key:
                    continue
                seen[key].refers = True
                if number not in self.known:
                    exports = self._exports[owner]
                    self.known[number] = (thing, (*owner, len(exports)))
                    exports.append(thing)

    def _place_views(self, seen: dict[Key, Seen]) -> None:
        """Have what comes across a view know the whole of it, and be written later."""
        for number, (_, whole) in self.views.items():
            for each in seen.values():
                if number in each.things:
                    each.things[id(whole)] = whole
                    each.size = max(each.size, whole.nbytes + ORDER_BYTES)

    def pickle(
        self, key: Key, file: Any, buffers: list[PickleBuffer], missing: dict[Key, str]
    ) -> None:
        """Pickle what has this key, and behind it what others refer to of it.

        Raises Refused where that refers to something that is `missing`.
        """
        seen = self._seen[key]
        # To be asked of each thing what stands for it costs several times what pickling it does.
        pickler = (
            _Referring(file, buffers, self, key, missing) if seen.refers else Pickler(file, buffers)
        )
        pickler.dump((seen.value, self._exports[key]))


class _Referring(Pickler):
    """Refers to what is owned by a frame before its own, `key`.

    What is owned by a later one was not there yet when this was looked at: pickling adds to some
    objects. So it is nothing that anybody has a name for.
    """

    def __init__(
        self,
        file: Any,
        buffers: list[PickleBuffer],
        plan: Plan,
        key: Key,
        missing: dict[Key, str],
    ) -> None:
        super().__init__(file, buffers)
        self._known = plan.known
        self._places = plan.places
        self._place = plan.places[key]
        self._views = plan.views
        self._missing = missing

    def persistent_id(self, thing: Any) -> Any:
        """What stands for the thing; None where it is pickled."""
        if type(thing) in _DULL or (found := self._known.get(id(thing))) is None:
            return None
        kind, name, *_ = reference = found[1]
        if self._places.get((kind, name), -1) >= self._place:
            return None
        if (kind, name) in self._missing:
            raise Refused(f"it shares objects with {name}, which is not kept")
        return reference

    def reducer_override(self, thing: Any) -> Any:
        """As the Pickler's; and views of arrays that are referred to."""
        if id(thing) in self._views:
            _, whole = self._views[id(thing)]
            if self.persistent_id(whole) is not None:
                return reduce_view(thing, whole)
        return super().reducer_override(thing)

"""Pickling what a namespace holds so that it is there again, not something like it.

Classes that runs have defined are cloudpickle's business. Functions are ours: cloudpickle gives
each a copy of the globals that it uses and of its closure's variables, so that it would no longer
see what later runs assign, nor two closures what they have in common.

What could only be made to look like itself (a file's contents in place of the open file, a process
that has ended meanwhile) is refused.
"""

import builtins
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable
from typing import Any, ClassVar

import cloudpickle

from kernelsvc.kernel_host.memory.makers import HOOK, make_class
from kernelsvc.kernel_host.memory.reducers import (
    REDUCERS,
    RUNNING,
    is_importable,
    is_ours,
    reduce_function,
    refuse_what_runs,
)

LIVING = "living"
"""Beside a name: what refers to something that every kernel has of its own."""
_IN_BAND_BYTES = 64 << 10
"""Buffers that are smaller go into the pickle itself."""


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


class Pickler(cloudpickle.Pickler):
    """Pickles into `file`; large buffers are listed in `buffers` instead."""

    dispatch_table: ClassVar[Any] = ChainMap(REDUCERS, cloudpickle.Pickler.dispatch_table)

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
            return NotImplemented if is_importable(thing) else reduce_function(thing)
        if not isinstance(thing, type):
            if isinstance(thing, RUNNING):
                refuse_what_runs(thing)
            else:
                self._harmless.add(kind)
            return NotImplemented
        reduced = super().reducer_override(thing)
        if reduced is NotImplemented or len(reduced) == 2:
            return reduced
        make, args, state, *how = reduced
        # cloudpickle leaves out where in other classes a class was defined.
        state[0]["__qualname__"] = thing.__qualname__
        hooked = [base for base in thing.__mro__[1:] if HOOK in vars(base) and is_ours(base)]
        return make_class, (hooked, make, args), state, *how


class Unpickler(pickle.Unpickler):
    """Unpickles what a `Pickler` has; `find` gives what a reference stands for."""

    def __init__(self, file: Any, buffers: list[Any], find: Callable[[Any], Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._find = find

    def persistent_load(self, reference: Any) -> Any:
        """What was referred to."""
        return self._find(reference)

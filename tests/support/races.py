"""Changing things under the service's hands, as fast as it goes."""

import ctypes
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_EXCHANGE = 2
_OFTEN = 100


def exchange(one: Path, other: Path) -> None:
    """Swap two names at once: at no moment is either of them missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Swap two names again and again, in a thread; fails where that has not gone on to the end."""
    stop, often = threading.Event(), threading.Event()

    def swap() -> None:
        for swaps in itertools.count():
            if swaps == _OFTEN:
                often.set()
            if stop.is_set():
                break
            exchange(one, other)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
        assert often.wait(30), "the swapping has failed"
        assert thread.is_alive(), "the swapping has failed"
    finally:
        stop.set()
        thread.join()

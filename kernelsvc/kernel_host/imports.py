"""What a kernel imports, when, and from where.

Everything that a kernel needs to start is imported by its host, once, from the places that the
session's code cannot write to; a forked kernel finds it there. Only a kernel that has started looks
into the workspace: whatever lies there may break the session's own code, but never its kernel.
"""

import gc
import importlib
import os
import sys
from collections.abc import Iterable
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path

_AT_START = (
    "concurrent.futures.thread",
    "faulthandler",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.logger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "pdb",
    "tornado.platform.asyncio",
    "unicodedata",
)
"""What ipykernel and IPython import only while a kernel starts."""

_DEBUGGER = "debugpy"


def preload(wanted: Iterable[str] = ()) -> None:
    """Import what a kernel imports while it starts, and the modules that are `wanted` beside it.

    The pages of all that forks share stay shared. Raises ImportError for one that is not there.
    ipykernel's debugger is left without debugpy, some hundred modules that every kernel would load
    and none of our clients can reach; the session's code may still import it.
    """
    for name in (*_AT_START, *wanted):
        importlib.import_module(name)
    if _DEBUGGER not in sys.modules:
        sys.modules[_DEBUGGER] = None  # type: ignore[assignment]
        try:
            importlib.import_module("ipykernel.debugger")
        finally:
            del sys.modules[_DEBUGGER]
    # Else a kernel's first collection writes to every object that it has of its host, and the
    # system copies the page that it is on.
    gc.collect()
    gc.freeze()


def reseed() -> None:
    """Give this kernel random numbers of its own, where what makes them has been imported.

    Python's own `random` sees to that itself. NumPy imports its own at its first use, and only then
    it has any.
    """
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def import_from_workspace() -> None:
    """Look for modules in PYTHONPATH's directories, and in the working directory.

    PYTHONPATH's come first, as in a new interpreter; the working directory comes after the standard
    library, as in IPython.
    """
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = (
        index
        for index, entry in enumerate(sys.path)
        if Path(entry).name in ("site-packages", "dist-packages")
    )
    sys.path.insert(next(installed, len(sys.path)), "")
    for directory in reversed(places):
        if directory:
            sys.path.insert(0, directory)
            # Python remembers of a directory that is not there that nothing can be imported from
            # it; a finder of its own looks again, once `pip install` has made it.
            sys.path_importer_cache[directory] = FileFinder(
                directory,
                (ExtensionFileLoader, EXTENSION_SUFFIXES),
                (SourceFileLoader, SOURCE_SUFFIXES),
                (SourcelessFileLoader, BYTECODE_SUFFIXES),
            )

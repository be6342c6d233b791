"""Finds what `pip install` puts into a session's own directory, also once it comes into being."""

import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)


def import_from_pythonpath() -> None:
    """Put PYTHONPATH's directories first on sys.path, as a new interpreter would.

    Python remembers of a directory that is not there that nothing can be imported from it; a finder
    of its own looks again.
    """
    for directory in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        if directory:
            sys.path.insert(0, directory)
            sys.path_importer_cache[directory] = FileFinder(
                directory,
                (ExtensionFileLoader, EXTENSION_SUFFIXES),
                (SourceFileLoader, SOURCE_SUFFIXES),
                (SourcelessFileLoader, BYTECODE_SUFFIXES),
            )

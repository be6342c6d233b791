"""Finding processes of a service by what they are called."""

import psutil


def named(name: str, root: psutil.Process | None = None) -> list[psutil.Process]:
    """Those called `name` below `root`, or below this process, parents first."""
    found = []
    for process in (root or psutil.Process()).children(recursive=True):
        try:
            if process.name() == name:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found

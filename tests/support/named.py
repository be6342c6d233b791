"""Finding processes of a service by what they are called."""

import psutil

from tests.support.process import ServiceProcess


def of_this_process() -> list[psutil.Process]:
    """Those below this process, parents first, but for services in processes of their own.

    Such a service may be there for many tests, and have kernels that come and go.
    """
    found, apart = [], set(ServiceProcess.running)
    for process in psutil.Process().children(recursive=True):
        try:
            parent = process.ppid()
        except psutil.NoSuchProcess:
            continue
        if process.pid in apart or parent in apart:
            apart.add(process.pid)
        else:
            found.append(process)
    return found


def named(name: str, root: psutil.Process | None = None) -> list[psutil.Process]:
    """Those called `name` below `root`, or of this process, parents first."""
    found = []
    for process in root.children(recursive=True) if root else of_this_process():
        try:
            if process.name() == name:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found

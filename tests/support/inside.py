"""Processes in sandboxes, found by the numbers that code in there knows them by."""

from pathlib import Path

import psutil

from tests.support.named import of_this_process


def process_inside(pid: int | str, below: int | None = None) -> psutil.Process:
    """The process that is `pid` in its innermost namespace; of those below `below`, or of ours.

    Where several sandboxes have one of that number, any of them.
    """
    processes = of_this_process() if below is None else psutil.Process(below).children(True)
    for process in processes:
        if number_inside(process) == int(pid):
            return process
    raise psutil.NoSuchProcess(int(pid))


def number_inside(process: psutil.Process) -> int | None:
    """What the process is in its innermost namespace; None of one that has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])

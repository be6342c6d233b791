"""Processes in sandboxes, found by the numbers that code in there knows them by."""

from pathlib import Path

import psutil


def process_inside(pid: int | str, below: int | None = None) -> psutil.Process:
    """The process that is `pid` in its innermost namespace, among those below this one's `below`.

    Where several sandboxes have one of that number, any of them.
    """
    for process in psutil.Process(below).children(recursive=True):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
        if numbers[-1] == str(pid):
            return process
    raise psutil.NoSuchProcess(int(pid))

"""What a process has of memory: at its most, between two moments."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


def _figure(pid: int, name: str) -> int:
    """A figure of `/proc/PID/status`, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


@contextmanager
def growing_by_less_than(most: int, pid: int) -> Iterator[None]:
    """At no moment does the process, without its children, have so many bytes more than before."""
    before = _figure(pid, "VmRSS")
    # From now on, VmHWM is the most since now.
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    yield
    grown = _figure(pid, "VmHWM") - before
    assert grown < most, f"{grown / MIB:.0f} MiB more at the most"

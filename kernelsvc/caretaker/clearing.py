"""What is left of a service and its kernels, removed when nobody needs it any more."""

import os
import select
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_END_SECONDS = 10.0
_KILL_SECONDS = 5.0
_LONGEST_PAUSE = 0.1


def end_processes(first: Iterable[int], others: Iterable[int]) -> None:
    """Kill the processes `first`, by their descriptors; return when `others` are gone as well.

    They end by themselves, or are killed after a while.
    """
    _kill(killed := list(first))
    left = _wait([*killed, *others], _END_SECONDS)
    _kill(left)
    _wait(left, _KILL_SECONDS)


def _kill(processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)


def _wait(processes: list[int], seconds: float) -> list[int]:
    """Wait until they have ended, so long at most; those that have not."""
    left, deadline = set(processes), time.monotonic() + seconds
    poll = select.poll()
    for process in left:
        poll.register(process, select.POLLIN)
    while left and (more := deadline - time.monotonic()) > 0:
        for process, _ in poll.poll(more * 1000):
            poll.unregister(process)
            left.discard(process)
    return list(left)


def remove_groups(prefixes: Iterable[str]) -> None:
    """Remove control groups whose paths begin so, with those in them; what is not empty stays."""
    deadline = time.monotonic() + _KILL_SECONDS
    for prefix in prefixes:
        for group in _groups(prefix):
            for inner in _directories(group):
                _remove_group(inner, deadline)
            _remove_group(group, deadline)


def has_groups(prefix: str) -> bool:
    """Whether there is a control group whose path begins so."""
    return bool(_groups(prefix))


def _groups(prefix: str) -> list[Path]:
    path = Path(prefix)
    return [each for each in _directories(path.parent) if each.name.startswith(path.name)]


def _directories(within: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(within) if entry.is_dir()]
    except OSError:
        return []


def _remove_group(path: Path, deadline: float) -> None:
    """Remove one, whose last process may be ending just now; whatever else is in it is killed."""
    pause = 0.001
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            _kill_inside(path)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        else:
            return


def _kill_inside(group: Path) -> None:
    """SIGKILL what is in there: a sandbox that was being made when the service was killed."""
    with suppress(OSError):
        for number in map(int, (group / "cgroup.procs").read_text().split()):
            # Processes that this one cannot see are shown as 0.
            if number > 0:
                os.kill(number, signal.SIGKILL)


def remove_directories(paths: Iterable[str]) -> None:
    """Remove directories with all that is in them."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)

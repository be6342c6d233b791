"""What files count for against a session's limit."""

import contextlib
import math
from typing import Final

from kernelsvc.files.tree import walk

LEAST_CHARGE: Final = 4096
"""What an entry counts for at least: empty files and directories fill a disk, too."""


def charge_of(size: int) -> int:
    """What a file or directory of this size counts for, in bytes."""
    return max(size, LEAST_CHARGE)


def charged(top: int, enough: float = math.inf) -> int:
    """What everything below the open directory `top` counts for together; blocks.

    Where that is more than `enough`, not all of it is counted. Directories that are locked against
    their owner are unlocked.
    """
    total = 0
    with contextlib.suppress(OSError):
        for entry in walk(top, unlock=True):
            total += charge_of(entry.status.st_size)
            if total > enough:
                break
    return total

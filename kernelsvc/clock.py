"""The times that the service goes by."""

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Wall-clock time in UTC: for people and the store, never for measuring."""
    return datetime.now(UTC)


def boottime() -> float:
    """Seconds since the machine booted, on the clock of /proc/PID/stat's start times."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

"""What the proxy gives up before it reads anything that hostile code sent."""

import ctypes
import resource

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38

_SPARE_DESCRIPTORS = 128


def harden(connections: int) -> None:
    """Take from this process what a proxy does not need.

    No privileges by executing anything; no core dumps and no looking into its memory by other
    processes of the user; no writing of files; descriptors for as many connections as it may have.
    Raises OSError where the system does not allow it.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 2 * connections + _SPARE_DESCRIPTORS),
    ):
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")

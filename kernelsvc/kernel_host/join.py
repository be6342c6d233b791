"""A process's way into a sandbox that stands already, and how it gives up what it could do before.

Theory of operation. bubblewrap has made the namespaces and process 1 in them waits. A process with
a single thread takes on the sandbox's user and joins all namespaces of process 1 at once (setns(2)
with a process descriptor, Linux 5.8); that of processes holds for its children. Until no code runs
in the sandbox, nobody there can take advantage of it: so `lock_down` comes before anything else.

`python -m kernelsvc.kernel_host.join OWNER SANDBOX SECCOMP PROGRAM [ARGUMENT]...` starts a program
in a sandbox: the arguments of `enter`, the descriptor of a file with the filter, a command.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from kernelsvc.kernel_host.processes import LIBC, prctl

_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_PR_CAPBSET_DROP = 24
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_INSTRUCTION_BYTES = 8
MAX_FILTER_BYTES = 4096 * _INSTRUCTION_BYTES
"""A filter has at most 4096 instructions (BPF_MAXINSNS)."""


class _Capabilities(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


_NO_CAPABILITIES = _Capabilities * 2


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def enter(sandbox: int, owner: int, groups: Iterable[str]) -> None:
    """Join the sandbox whose process 1 the descriptor `sandbox` names; children are in it wholly.

    `owner` is the user and group to be there, below 0 for the present ones; `groups` are the files
    of the control groups to enter. Raises OSError.
    """
    for path in groups:
        Path(path).write_text("0")
    if owner >= 0:
        os.setgroups([])
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, owner)
    _check("setns", LIBC.setns(sandbox, _NAMESPACES))


def lock_down(seccomp: bytes) -> None:
    """Give up every capability for ever and load the filter; raises OSError.

    As bubblewrap does to what it starts itself.
    """
    with contextlib.suppress(OSError):
        for capability in range(64):
            prctl(_PR_CAPBSET_DROP, capability)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    _check("capset", LIBC.capset(ctypes.byref(header), _NO_CAPABILITIES()))
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    program = _Filter(len(seccomp) // _INSTRUCTION_BYTES, seccomp)
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _start(owner: str, sandbox: str, seccomp: str, *command: str) -> int:
    """Start a program in a sandbox; the status that it ended with."""
    program = os.pread(int(seccomp), MAX_FILTER_BYTES, 0)
    enter(int(sandbox), int(owner), ())
    if (pid := os.fork()) == 0:
        lock_down(program)
        os.execv(command[0], command)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _check(call: str, result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")


if __name__ == "__main__":
    sys.exit(_start(*sys.argv[1:]))

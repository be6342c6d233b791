"""A process's way into a sandbox that stands already, and how it gives up what it could do before.

Theory of operation. bubblewrap has made the namespaces and process 1 in them waits. A process with
a single thread takes on the sandbox's user and joins all namespaces of process 1 at once (setns(2)
with a process descriptor, Linux 5.8); that of processes holds for its children. Until no code runs
in the sandbox, nobody there can take advantage of it: so `lock_down` comes before anything else.

bubblewrap mounts in one user namespace and has its program in another within. Who is to mount there
joins as the master of the first (`enter_as_master`), and then the second (`become_user`).

`python -m kernelsvc.kernel_host.join OWNER SANDBOX SECCOMP PROGRAM [ARGUMENT]...` starts a program
in a sandbox: the arguments of `enter`, the descriptor of a file with the filter, a command.
"""

import contextlib
import ctypes
import fcntl
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from kernelsvc.kernel_host.processes import LIBC, prctl

_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_USER_NAMESPACE = 0x10000000
_NS_GET_USERNS = 0xB701
_PR_CAPBSET_DROP = 24
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
SYS_CHROOT = 18
"""The capability to change one's root directory."""
_INSTRUCTION_BYTES = 8
MAX_FILTER_BYTES = 4096 * _INSTRUCTION_BYTES
"""A filter has at most 4096 instructions (BPF_MAXINSNS)."""


class _Capabilities(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


_CAPABILITIES = _Capabilities * 2


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
    _become(owner)
    check("setns", LIBC.setns(sandbox, _NAMESPACES))


def enter_as_master(sandbox: int, owner: int) -> None:
    """The same, but with every right to its mounts, and no control group; raises OSError."""
    with open(f"/proc/{_process(sandbox)}/ns/mnt") as mounts:
        master = fcntl.ioctl(mounts, _NS_GET_USERNS)
    _become(owner)
    try:
        check("setns", LIBC.setns(master, _USER_NAMESPACE))
    finally:
        os.close(master)
    check("setns", LIBC.setns(sandbox, _NAMESPACES & ~_USER_NAMESPACE))


def become_user(sandbox: int) -> None:
    """From master of the sandbox to what its programs are; raises OSError."""
    check("setns", LIBC.setns(sandbox, _USER_NAMESPACE))


def _become(owner: int) -> None:
    if owner >= 0:
        os.setgroups([])
        os.setresgid(owner, owner, owner)
        os.setresuid(owner, owner, owner)


def _process(pidfd: int) -> int:
    """The number of the process that a process descriptor is of."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pid:")).split()[1])


def lock_down(seccomp: bytes, keep: int | None = None) -> None:
    """Give up every capability for ever and load the filter; raises OSError.

    As bubblewrap does to what it starts itself. The one capability `keep` stays with this process
    and its forks; no program that they start has it.
    """
    with contextlib.suppress(OSError):
        for capability in range(64):
            prctl(_PR_CAPBSET_DROP, capability)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    kept = _CAPABILITIES()
    if keep is not None:
        kept[0].effective = kept[0].permitted = 1 << keep
    check("capset", LIBC.capset(ctypes.byref(header), kept))
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


def check(call: str, result: int) -> None:
    """Raise OSError where a call of the C library has failed."""
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")


if __name__ == "__main__":
    sys.exit(_start(*sys.argv[1:]))

"""Which system calls code in a sandbox may make: the list of `syscalls.txt`, and what depends."""

from pathlib import Path

_LIST = Path(__file__).with_name("syscalls.txt")


def allowed() -> frozenset[str]:
    """The names of those that are allowed whatever their arguments are."""
    lines = _LIST.read_text().splitlines()
    return frozenset(name for line in lines if line[:1] != "#" for name in line.split())


CONDITIONAL = frozenset({"clone", "personality", "socket"})
"""Allowed for some arguments only; see `seccomp`."""

NOT_THERE = frozenset({"clone3", "io_uring_enter", "io_uring_register", "io_uring_setup"})
"""Answered as by a kernel that does not have them (ENOSYS), so that programs use what came before.

The arguments of clone3 are behind a pointer, which a filter cannot follow.
"""

STRICTER_THAN_DOCKER = frozenset(
    {
        "kcmp",
        "memfd_secret",
        "name_to_handle_at",
        "pidfd_getfd",
        "process_madvise",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "set_mempolicy_home_node",
    }
)
"""Docker's profile allows these on current kernels; here nothing looks into another process."""

FIRST_UNKNOWN = 451
"""System calls from this number on are newer than this list: ENOSYS, so that programs fall back."""
LAST_UNKNOWN = 511

NAMESPACE_FLAGS = 0x7E020080
"""CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET,TIME}: no namespace of its own for anyone inside."""

SOCKET_FAMILIES = frozenset({1, 2, 10, 16})
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK."""

PERSONALITIES = frozenset({0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF})
"""Linux, with 32-bit names, and the question which one is set."""

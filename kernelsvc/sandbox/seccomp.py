"""The seccomp filter of every sandbox, compiled by libseccomp to what bubblewrap loads.

libseccomp is on every Debian and Ubuntu (apt needs it). It knows the numbers of system calls on
each architecture; a call that came in by another architecture's table ends the process.
"""

import ctypes
import errno
import os
from collections.abc import Iterable

from kernelsvc.sandbox import syscalls

_LIBRARY = "libseccomp.so.2"
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_BAD_ARCHITECTURE = 2  # SCMP_FLTATR_ACT_BADARCH
_MASKED_EQUAL = 7
_LOW_HALF = 0xFFFFFFFF


class SeccompUnusable(Exception):
    """libseccomp is missing or refuses; says what."""


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("other", ctypes.c_uint64),
    ]


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise SeccompUnusable(f"{_LIBRARY} is missing: install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


class _Filter:
    """A filter under construction: whatever no rule allows fails with EPERM."""

    def __init__(self) -> None:
        self._library = _load()
        self._context = self._library.seccomp_init(_ERRNO | errno.EPERM)
        if not self._context:
            raise SeccompUnusable("libseccomp cannot make a filter")
        self._check(self._library.seccomp_attr_set(self._context, _BAD_ARCHITECTURE, _KILL_PROCESS))

    def add(self, action: int, syscall: str | int, *comparisons: _Comparison) -> None:
        """One rule; a name that this architecture does not have is passed over."""
        number = self.number(syscall) if isinstance(syscall, str) else syscall
        if number < 0:
            return
        array = (_Comparison * len(comparisons))(*comparisons)
        self._check(
            self._library.seccomp_rule_add_array(
                self._context, action, number, len(comparisons), array if comparisons else None
            )
        )

    def number(self, name: str) -> int:
        """The system call's number here; below 0 where there is none."""
        return int(self._library.seccomp_syscall_resolve_name(name.encode()))

    def export(self) -> bytes:
        """The filter as BPF instructions."""
        fd = os.memfd_create("seccomp")
        try:
            self._check(self._library.seccomp_export_bpf(self._context, fd))
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def close(self) -> None:
        self._library.seccomp_release(self._context)

    @staticmethod
    def _check(result: int) -> None:
        if result < 0:
            raise SeccompUnusable(f"libseccomp refused: {os.strerror(-result)}")


def compile_filter() -> bytes:
    """The filter's program for this machine; raises SeccompUnusable."""
    building = _Filter()
    try:
        for name in sorted(syscalls.allowed()):
            building.add(_ALLOW, name)
        for name in sorted(syscalls.NOT_THERE):
            building.add(_ERRNO | errno.ENOSYS, name)
        for number in range(syscalls.FIRST_UNKNOWN, syscalls.LAST_UNKNOWN + 1):
            building.add(_ERRNO | errno.ENOSYS, number)
        building.add(_ALLOW, "clone", _Comparison(0, _MASKED_EQUAL, syscalls.NAMESPACE_FLAGS, 0))
        _allow_values(building, "personality", syscalls.PERSONALITIES)
        _allow_values(building, "socket", syscalls.SOCKET_FAMILIES)
        return building.export()
    finally:
        building.close()


def _allow_values(building: _Filter, syscall: str, values: Iterable[int]) -> None:
    # Only the lower half of the argument counts for the kernel, so only it is compared.
    for value in sorted(values):
        building.add(_ALLOW, syscall, _Comparison(0, _MASKED_EQUAL, _LOW_HALF, value))

"""What is put round each kernel host: its sandbox, where there is one, and its limits."""

import contextlib
import itertools
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernelsvc.models.limits import Limits
from kernelsvc.sandbox import bwrap
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.cgroups import Cgroup, Hierarchy
from kernelsvc.sandbox.policy import CACHE, RUNTIME, WORKSPACE, SandboxPolicy

Rlimits = dict[str, int]
"""Limits of a single process by their names in Python's `resource`, without RLIMIT_."""


@dataclass(frozen=True)
class Enclosure:
    """One sandbox's: what to start a process in it by, and what is seen from inside.

    `command` goes before the program's; the process inherits `fds`, which `started` closes here
    (of a sandbox: its seccomp filter). `outside` goes before the command of a process that serves
    it from outside. `workspace`, `runtime` and `cache` are the paths inside of what `place` has
    outside, `owner` is the user and group there, where it is another than the service's.
    """

    command: list[str]
    workspace: Path
    runtime: Path
    rlimits: Rlimits
    outside: tuple[str, ...] = ()
    fds: tuple[int, ...] = ()
    cgroup: Cgroup | None = None
    owner: int | None = None
    cache: Path | None = None

    def command_reporting_to(self, status_fd: int) -> list[str]:
        """The command of a sandbox that writes its process 1 there: `{"child-pid": 123, ...}`."""
        assert self.fds, "there is no sandbox"
        *sandbox, end = self.command
        return [*sandbox, "--json-status-fd", str(status_fd), end]

    @property
    def group_files(self) -> list[str]:
        """The files by which a process enters the control groups."""
        return self.cgroup.files if self.cgroup else []

    def expect(self) -> None:
        """Have the system be ready to move a process into the control groups; blocks."""
        if self.cgroup is not None:
            self.cgroup.expect()

    def started(self) -> None:
        """The process has been started, or could not be."""
        for fd in self.fds:
            os.close(fd)

    def oom_kills(self) -> int:
        """How many processes in it the kernel has killed because memory ran out, where it tells."""
        return self.cgroup.oom_kills() if self.cgroup else 0

    def hold_back(self, held: bool) -> None:
        """Let others have the processors first, or no more, where there is a group to say it of."""
        if self.cgroup is not None:
            with contextlib.suppress(OSError):
                self.cgroup.hold_back(held)

    def close(self) -> None:
        """Free the limits' group; everything inside has ended. Blocks."""
        if self.cgroup is not None:
            with contextlib.suppress(OSError):
                self.cgroup.remove()


@dataclass
class Isolation:
    """How this service isolates. `policy` None: no sandbox; `cgroups` None: limits per process.

    `seccomp` is the filter's program.
    """

    policy: SandboxPolicy | None
    seccomp: bytes = b""
    cgroups: Hierarchy | None = None
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def owner(self) -> tuple[int, int] | None:
        """The user and group, on this machine, of sandboxed code; None: the service's own."""
        if self.policy is None or self.policy.host_id is None:
            return None
        return self.policy.host_id, self.policy.host_id

    @property
    def is_sandbox(self) -> bool:
        """Whether code is in a sandbox; outside of one, nothing controls its network."""
        return self.policy is not None

    @property
    def groups(self) -> list[str]:
        """What the paths of its control groups begin with."""
        return [] if self.cgroups is None else self.cgroups.prefixes

    def inherit(
        self, workspace: Path, runtime: Path, rlimits: Rlimits, groups: tuple[Path, ...]
    ) -> Enclosure:
        """A sandbox that an earlier service has made; the paths are those inside of it."""
        cgroup = Cgroup(self.cgroups, groups) if self.cgroups and groups else None
        owner = self.policy.host_id if self.policy else None
        return Enclosure([], workspace, runtime, rlimits, cgroup=cgroup, owner=owner)

    def enclose(self, place: Place, limits: Limits) -> Enclosure:
        """Prepare a sandbox at `place`; raises OSError. Blocks for a moment."""
        if self.owner is not None:
            for directory in place.directories:
                os.chown(directory, *self.owner, follow_symlinks=False)
        cgroup = None
        if self.cgroups is not None:
            name = f"host-{next(self._numbers)}"
            cgroup = Cgroup(self.cgroups, self.cgroups.create(name))
            try:
                cgroup.limit(limits)
            except OSError:
                cgroup.remove()
                raise
        enter = cgroup.enter_command() if cgroup else []
        rlimits = self._rlimits(limits)
        if self.policy is None:
            return Enclosure(
                enter, place.workspace, place.runtime, rlimits, cgroup=cgroup, cache=place.cache
            )
        seccomp_fd = self.filter_file()
        return Enclosure(
            command=[*enter, *bwrap.command(self.policy, place, seccomp_fd)],
            workspace=WORKSPACE,
            runtime=RUNTIME,
            rlimits=rlimits,
            outside=(*enter, *bwrap.outside_command(self.policy)),
            fds=(seccomp_fd,),
            cgroup=cgroup,
            owner=self.policy.host_id,
            cache=CACHE if place.cache else None,
        )

    def filter_file(self) -> int:
        """A descriptor, the caller's, of a file with the filter's program, at its beginning."""
        fd = os.memfd_create("seccomp")
        os.write(fd, self.seccomp)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def limited(self, enclosure: Enclosure, limits: Limits) -> Enclosure:
        """The same sandbox under other limits; blocks for a moment.

        Those of a single process hold for processes that start from now on. Raises OSError where
        there is more in it than the limits allow.
        """
        if enclosure.cgroup is not None:
            enclosure.cgroup.limit(limits)
        return replace(enclosure, rlimits=self._rlimits(limits))

    def _rlimits(self, limits: Limits) -> Rlimits:
        """The limits that each process has, besides or instead of those of the group."""
        rlimits = {"CORE": 0}
        if limits.open_files is not None:
            rlimits["NOFILE"] = limits.open_files
        if limits.file_size is not None:
            rlimits["FSIZE"] = limits.file_size
        if self.cgroups is None and limits.memory is not None:
            rlimits["DATA"] = limits.memory
        # Outside of a sandbox, the system counts every process of the service's user together, in
        # one those of all copies that are made there.
        if self.policy is not None and self.cgroups is None and limits.processes is not None:
            rlimits["NPROC"] = limits.processes + _OVERHEAD
        return rlimits

    def close(self) -> None:
        """Free what the service itself has of the control groups."""
        if self.cgroups is not None:
            with contextlib.suppress(OSError):
                self.cgroups.close()


_OVERHEAD = 10
"""Processes and threads of the sandbox itself, which the code's own are counted with."""

"""Limits on all processes of a sandbox together, by the control groups of the kernel.

Theory of operation. A service may use them where it can make a group below its own: as root
(version 1 or 2), or as an ordinary user in a version 2 group that was delegated to it (systemd:
`Delegate=yes`). `find` tells which it is; there is a `Hierarchy` for each. A `Cgroup` is one
sandbox's. A process enters before it becomes the sandbox (`enter_command`), so everything in the
sandbox is in the group from its first moment.

Version 2 lets no group that has limits on its children hold processes itself, so there the service
moves to a group beside those of its sandboxes.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kernelsvc.models.limits import Limits

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "kernelsvc-"
_PERIOD_US = 100_000
_SHORTEST_QUOTA_US = 1_000
_UNLIMITED = -1
_HELD_BACK = 32
"""So much smaller is the share of the processors of a group that is held back."""
_REMOVE_SECONDS = 5.0
_V1_CONTROLLERS = ("memory", "pids", "cpu")
_ENTER = 'for group in "$1" "$2" "$3"; do [ -z "$group" ] || echo $$ > "$group" || exit 125; done; '
_ENTER += 'shift 3; exec "$@"'


class Hierarchy(Protocol):
    """How this machine's control groups are laid out."""

    description: str

    @property
    def prefixes(self) -> list[str]:
        """What the paths of its groups, and of those around them, begin with."""
        ...

    def create(self, name: str) -> tuple[Path, ...]:
        """Make a group without limits; its directories. Raises OSError."""
        ...

    def limit(self, directories: tuple[Path, ...], limits: Limits) -> None:
        """Set what the group may use; raises OSError where it uses more already."""
        ...

    def hold_back(self, directories: tuple[Path, ...], held: bool) -> None:
        """Give the group a small share of the processors where others want them, or a whole one."""
        ...

    def oom_kills(self, directories: tuple[Path, ...]) -> int:
        """How many processes of the group the kernel has killed because memory ran out."""
        ...

    def close(self) -> None:
        """Remove what was made for the service itself."""
        ...


@dataclass(frozen=True)
class Cgroup:
    """One sandbox's group; freed by `remove`."""

    hierarchy: Hierarchy
    directories: tuple[Path, ...]

    @property
    def files(self) -> list[str]:
        """The files by which a process enters the group."""
        return [str(directory / "cgroup.procs") for directory in self.directories]

    def expect(self) -> None:
        """Have the system be ready to move a process here, which takes it some 10 ms; blocks.

        Before it moves any, it waits until each processor has seen that it will (`percpu_rwsem`);
        but not when it has moved one just before. So one that is here is moved to here.
        """
        with contextlib.suppress(OSError):
            file = self.directories[0] / "cgroup.procs"
            if here := file.read_text().split():
                _write(file, here[0])

    def enter_command(self) -> list[str]:
        """The beginning of a command line whose program starts inside the group."""
        return ["/bin/sh", "-c", _ENTER, "sh", *[*self.files, "", "", ""][:3]]

    def limit(self, limits: Limits) -> None:
        """Set what its processes may use together; raises OSError where they use more already."""
        self.hierarchy.limit(self.directories, limits)

    def hold_back(self, held: bool) -> None:
        """Let others have the processors first, or no more; raises OSError."""
        self.hierarchy.hold_back(self.directories, held)

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed because memory ran out."""
        try:
            return self.hierarchy.oom_kills(self.directories)
        except (OSError, ValueError):
            return 0

    def remove(self) -> None:
        """Remove the group, whose processes have ended; blocks for a moment where one still ends.

        Raises OSError where something of it lives.
        """
        for directory in self.directories:
            _remove(directory)


def _remove(directory: Path) -> None:
    deadline = time.monotonic() + _REMOVE_SECONDS
    pause = 0.001
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(pause)
            pause = min(pause * 2, 0.1)
        else:
            return


def _write(path: Path, value: int | str) -> None:
    path.write_text(str(value))


def _quota_us(limits: Limits) -> int | None:
    if limits.cpu is None or limits.cpu >= (os.cpu_count() or 1):
        return None
    return max(_SHORTEST_QUOTA_US, int(limits.cpu * _PERIOD_US))


def _pids(limits: Limits) -> int | str:
    return "max" if limits.processes is None else limits.processes + _OVERHEAD


def _or(value: int | None, unlimited: int | str) -> int | str:
    return unlimited if value is None else value


def _counter(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


class V1:
    """Version 1: one hierarchy a controller."""

    def __init__(self, parents: dict[str, Path]) -> None:
        self._own = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(2)}"
        self._parents = {name: parent / self._own for name, parent in parents.items()}
        self.description = "control groups, version 1"
        for parent in self._parents.values():
            parent.mkdir()

    @property
    def prefixes(self) -> list[str]:
        """The groups that hold those of the sandboxes."""
        return [str(parent) for parent in self._parents.values()]

    def create(self, name: str) -> tuple[Path, ...]:
        """A group in each hierarchy."""
        directories = tuple(parent / name for parent in self._parents.values())
        for directory in directories:
            directory.mkdir()
        return directories

    def limit(self, directories: tuple[Path, ...], limits: Limits) -> None:
        """In each the limits that are its own."""
        groups = dict(zip(self._parents, directories, strict=True))
        memory, cpu = groups["memory"], groups["cpu"]
        # With swap it may never be less than without.
        swap = memory / "memory.memsw.limit_in_bytes"
        if swap.exists():
            _write(swap, _UNLIMITED)
        _write(memory / "memory.limit_in_bytes", _or(limits.memory, _UNLIMITED))
        if swap.exists() and limits.memory is not None:
            _write(swap, limits.memory)
        _write(groups["pids"] / "pids.max", _pids(limits))
        _write(cpu / "cpu.cfs_period_us", _PERIOD_US)
        _write(cpu / "cpu.cfs_quota_us", _or(_quota_us(limits), _UNLIMITED))

    def hold_back(self, directories: tuple[Path, ...], held: bool) -> None:
        """By its shares, of which a group has 1024 unless told."""
        cpu = dict(zip(self._parents, directories, strict=True))["cpu"]
        _write(cpu / "cpu.shares", 1024 // _HELD_BACK if held else 1024)

    def oom_kills(self, directories: tuple[Path, ...]) -> int:
        """As the memory controller counts them."""
        memory = dict(zip(self._parents, directories, strict=True))["memory"]
        return _counter(memory / "memory.oom_control", "oom_kill")

    def close(self) -> None:
        """Remove the groups that hold those of the sandboxes."""
        for parent in self._parents.values():
            _remove(parent)


class V2:
    """Version 2: one hierarchy for all controllers."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self.description = "control groups, version 2"

    @property
    def prefixes(self) -> list[str]:
        """Those of this process."""
        return [str(self._parent / f"{_PREFIX}{os.getpid()}-")]

    def create(self, name: str) -> tuple[Path, ...]:
        """One group."""
        directory = self._parent / f"{_PREFIX}{os.getpid()}-{name}"
        directory.mkdir()
        return (directory,)

    def limit(self, directories: tuple[Path, ...], limits: Limits) -> None:
        """All in the one group."""
        (directory,) = directories
        if (swap := directory / "memory.swap.max").exists():
            _write(swap, 0 if limits.memory is not None else "max")
        _write(directory / "memory.max", _or(limits.memory, "max"))
        _write(directory / "pids.max", _pids(limits))
        _write(directory / "cpu.max", f"{_or(_quota_us(limits), 'max')} {_PERIOD_US}")

    def hold_back(self, directories: tuple[Path, ...], held: bool) -> None:
        """By its weight, which is 100 unless told."""
        _write(directories[0] / "cpu.weight", 100 // _HELD_BACK if held else 100)

    def oom_kills(self, directories: tuple[Path, ...]) -> int:
        """As the group counts them."""
        return _counter(directories[0] / "memory.events", "oom_kill")

    def close(self) -> None:
        """Nothing: the group was there before."""


_OVERHEAD = 10
"""Processes of the sandbox itself (bubblewrap, the kernel host, snapshots), which count as well."""


class NoCgroups(Exception):
    """This service can make no groups; says why."""


def find() -> Hierarchy:
    """The control groups that this process can limit its children by; raises NoCgroups.

    Frees what an earlier service, which ended without doing so, has left there.
    """
    own = _own_groups()
    try:
        if all(name in own for name in _V1_CONTROLLERS):
            parents = {name: own[name] for name in _V1_CONTROLLERS}
            for parent in parents.values():
                _sweep(parent)
            return V1(parents)
        return V2(_v2_parent(own))
    except OSError as error:
        raise NoCgroups(f"{error.filename or _ROOT}: {error.strerror}") from error


def _own_groups() -> dict[str, Path]:
    """The directories of this process's groups by controller; that of version 2 under ''."""
    groups: dict[str, Path] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            mount = _ROOT / name if name else _v2_mount()
            inside = mount / path.lstrip("/")
            # In a container the path may be the host's; then the mount itself is what is ours.
            directory = inside if inside.is_dir() else mount
            if directory.is_dir():
                groups[name.removeprefix("name=")] = directory
    return groups


def _v2_mount() -> Path:
    unified = _ROOT / "unified"
    return unified if unified.is_dir() else _ROOT


def _v2_parent(own: dict[str, Path]) -> Path:
    """The group to make others in, with its controllers given to them."""
    group = own.get("")
    if group is None:
        raise NoCgroups("no control groups are mounted")
    needed = {"memory", "pids", "cpu"}
    missing = needed - set((group / "cgroup.controllers").read_text().split())
    if missing:
        raise NoCgroups(f"{group} lacks the controllers {', '.join(sorted(missing))}")
    _sweep(group)
    control = group / "cgroup.subtree_control"
    if not needed <= set(control.read_text().split()):
        if group != _v2_mount():
            service = group / f"{_PREFIX}service"
            service.mkdir(exist_ok=True)
            for pid in (group / "cgroup.procs").read_text().split():
                _write(service / "cgroup.procs", pid)
        _write(control, " ".join(f"+{name}" for name in sorted(needed)))
    return group


def _sweep(parent: Path) -> None:
    """Remove groups of services that are gone; those with processes stay, they are somebody's."""
    for directory in _children(parent):
        pid = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if directory.name.startswith(_PREFIX) and pid.isdigit() and not Path("/proc", pid).exists():
            for inner in (*_children(directory), directory):
                with contextlib.suppress(OSError):
                    inner.rmdir()


def _children(directory: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in os.scandir(directory) if entry.is_dir())

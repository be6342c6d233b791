"""The words between the service and a kernel host, one JSON object a line over a socket pair.

Both ends distrust what they read: a line that is too long, is no JSON, names no known message or
has a field of the wrong type raises `WireError`, and the reader hangs up.
"""

import dataclasses
import json
import struct
from typing import Any, ClassVar, get_type_hints

MAX_LINE_BYTES = 1 << 20

METADATA_KEY = "kernelsvc"
"""In an execute request's metadata what the run needs, in its `idle`'s how the run has ended."""


class WireError(Exception):
    """The other end said something that is not in this protocol."""


@dataclasses.dataclass(frozen=True, slots=True)
class StartKernel:
    """To the host: fork a kernel in directory `cwd` with environment `env`.

    `connection` is its connection information as JSON, which the host writes to `connection_file`
    (neither for what is no kernel); `limits` are those of a process (`resource`'s names without
    RLIMIT_). With `adapter` it is a kernel of another language than Python: which, and what that
    needs (`adapters.serving`). With `argv` the child becomes that program, which is said to be
    ready once it runs; what it writes to stdout and stderr is added to the file `output`, or
    dropped without one.
    """

    name: ClassVar[str] = "start"
    kernel: int
    adapter: list[str]
    argv: list[str]
    output: str
    connection: str
    connection_file: str
    cwd: str
    env: dict[str, str]
    limits: dict[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class PromoteSnapshot:
    """To the host: make the snapshot of the memory after `run` the kernel.

    It is one of the kernel `of`, which has exited, and `run` is the id of its execute request;
    `connection` and `connection_file` are as for `StartKernel`. The snapshot is the kernel's if
    that is answered by `KernelStarted`; where there is none of that run, `NoSnapshot` is the
    answer, and the end of it.
    """

    name: ClassVar[str] = "promote"
    kernel: int
    of: int
    run: str
    connection: str
    connection_file: str


@dataclasses.dataclass(frozen=True, slots=True)
class CopySnapshot:
    """To the host: fork a copy from the snapshot of the memory after `run` of the kernel `of`.

    The snapshot stays what it is. `KernelStarted` or `NoSnapshot` is the answer; the copy waits for
    `MoveCopy`.
    """

    name: ClassVar[str] = "copy"
    kernel: int
    of: int
    run: str


@dataclasses.dataclass(frozen=True, slots=True)
class MoveCopy:
    """To the host: have a copy that waits be a kernel, in a place of its own.

    That is the root directory `root`, by a path as the host has it. With `reseed`, its random
    numbers are others than the snapshot's would be. `SnapshotPromoted` is the answer.
    """

    name: ClassVar[str] = "move"
    kernel: int
    root: str
    reseed: bool
    connection: str
    connection_file: str


@dataclasses.dataclass(frozen=True, slots=True)
class ForkHost:
    """To the zygote: fork a host into a sandbox; with its descriptors, in the order of `FDS`.

    It becomes user and group `owner` (below 0: it stays who it is) and enters the control groups
    with these files.
    """

    name: ClassVar[str] = "fork"
    owner: int
    groups: list[str]


FDS = ("control", "stderr", "sandbox", "seccomp", "dial", "offer")
"""With `ForkHost`: the host's control socket; its stderr; a process descriptor of process 1 of the
sandbox; a file with the seccomp filter; the socket for `DIAL`; and, for one with a proxy, its
`OFFER`."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpenAnnex:
    """To the zygote: open an annex of a sandbox (`annex`), with its descriptors as in `ANNEX_FDS`.

    It is to have these `directories` of the other sandbox; `owner` is as for a host.
    """

    name: ClassVar[str] = "annex"
    owner: int
    directories: list[str]


ANNEX_FDS = ("held", "stderr", "sandbox", "other", "seccomp")
"""With `OpenAnnex`: the socket that it lasts as long as; what is wrong goes to stderr; descriptors
of process 1 of the sandbox that it is in, and of that of its session; a file with the filter."""

DIAL = struct.Struct("!IBH")
"""To the host, a packet: a number, the IP version and the port of the loopback address to reach."""

DIALLED = struct.Struct("!Ii")
"""From the host: the number, and 0 with the socket, or what was in the way (errno)."""


@dataclasses.dataclass(frozen=True, slots=True)
class SignalKernel:
    """To the host: send `signum` to the kernel's process group, as a terminal's Ctrl-C would."""

    name: ClassVar[str] = "signal"
    kernel: int
    signum: int


@dataclasses.dataclass(frozen=True, slots=True)
class KillKernel:
    """To the host: SIGKILL the kernel; everything it started goes with it."""

    name: ClassVar[str] = "kill"
    kernel: int


@dataclasses.dataclass(frozen=True, slots=True)
class SweepChildren:
    """To the host: SIGKILL what the kernel started since `since` (seconds, CLOCK_BOOTTIME)."""

    name: ClassVar[str] = "sweep"
    kernel: int
    since: float


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetKernel:
    """To the host: end the kernel, where it lives, and its snapshot: it will not be asked for."""

    name: ClassVar[str] = "forget"
    kernel: int


@dataclasses.dataclass(frozen=True, slots=True)
class AskKernels:
    """To the host, by a service that has not started it: these kernels are to go on, no others.

    Of each, `KernelReady` or `KernelExited` is the answer; what else there is ends, unreported.
    """

    name: ClassVar[str] = "ask"
    kernels: list[int]


@dataclasses.dataclass(frozen=True, slots=True)
class HostForked:
    """From the zygote, over the host's control socket: it is process `pid` outside."""

    name: ClassVar[str] = "forked"
    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class AnnexOpened:
    """From an annex: the root directory of process `pid`, by its number inside, is the annex."""

    name: ClassVar[str] = "opened"
    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class KernelStarted:
    """From the host: the kernel was forked and has process id `pid`."""

    name: ClassVar[str] = "started"
    kernel: int
    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class NoSnapshot:
    """From the host: there is no snapshot for this kernel, and `why`; no exit is reported."""

    name: ClassVar[str] = "no_snapshot"
    kernel: int
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotPromoted:
    """From the host: the snapshot becomes the kernel; what the one before had `without` which."""

    name: ClassVar[str] = "promoted"
    kernel: int
    without: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class KernelReady:
    """From the host: the kernel's sockets are bound and it is about to serve them.

    `pid` is the process that does the work: the kernel's own, or another that it has started.
    """

    name: ClassVar[str] = "ready"
    kernel: int
    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class ChildrenSwept:
    """From the host: the answer to `SweepChildren`; `killed` processes were still there."""

    name: ClassVar[str] = "swept"
    kernel: int
    killed: int


@dataclasses.dataclass(frozen=True, slots=True)
class KernelExited:
    """From the host: the kernel ended and nothing that it started is left.

    `returncode` is as subprocess has it: the exit status, or minus the signal that ended it.
    """

    name: ClassVar[str] = "exited"
    kernel: int
    returncode: int


Command = (
    ForkHost
    | OpenAnnex
    | StartKernel
    | PromoteSnapshot
    | CopySnapshot
    | MoveCopy
    | SignalKernel
    | KillKernel
    | SweepChildren
    | ForgetKernel
    | AskKernels
)
Report = (
    HostForked
    | AnnexOpened
    | KernelStarted
    | NoSnapshot
    | SnapshotPromoted
    | KernelReady
    | ChildrenSwept
    | KernelExited
)

_MESSAGES: dict[str, tuple[type[Command | Report], dict[str, Any]]] = {
    message.name: (
        message,
        {field.name: get_type_hints(message)[field.name] for field in dataclasses.fields(message)},
    )
    for message in (
        ForkHost,
        OpenAnnex,
        StartKernel,
        PromoteSnapshot,
        CopySnapshot,
        MoveCopy,
        SignalKernel,
        KillKernel,
        SweepChildren,
        ForgetKernel,
        AskKernels,
        HostForked,
        AnnexOpened,
        KernelStarted,
        NoSnapshot,
        SnapshotPromoted,
        KernelReady,
        ChildrenSwept,
        KernelExited,
    )
}
"""By its name, each message and the types of its fields."""


def encode(message: Command | Report) -> bytes:
    """One line for `message`, its newline included."""
    fields = {field: getattr(message, field) for field in _MESSAGES[message.name][1]}
    return json.dumps([message.name, fields]).encode() + b"\n"


def decode(line: bytes) -> Command | Report:
    """The message in `line`; raises WireError for anything else."""
    try:
        name, fields = json.loads(line)
        message, expected = _MESSAGES[name]
        if fields.keys() != expected.keys():
            raise WireError(f"message {name!r} has the wrong fields")
        return message(**{key: _checked(fields[key], kind) for key, kind in expected.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WireError("not a message of the kernel host protocol") from error


def _checked(value: Any, kind: Any) -> Any:
    if kind in (dict[str, str], dict[str, int]):
        item_kind = kind.__args__[1]
        if not isinstance(value, dict) or not all(type(v) is item_kind for v in value.values()):
            raise WireError(f"expected an object of {item_kind.__name__}")
    elif kind in (list[str], list[int]):
        item_kind = kind.__args__[0]
        if not isinstance(value, list) or not all(type(item) is item_kind for item in value):
            raise WireError(f"expected a list of {item_kind.__name__}")
    elif kind is float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise WireError("expected a number")
    elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WireError(f"expected a {kind.__name__}")
    return value

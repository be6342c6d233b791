"""The command line that puts a program into a sandbox: bubblewrap's arguments, each explained.

Theory of operation. bubblewrap makes the namespaces, mounts what the arguments list on an empty
file system, loads the seccomp filter, drops every capability and runs the program as process 1 of
its process namespace: when that ends, the system ends everything in the sandbox.

A service that runs as root does this in two stages. With root's identity outside, the files of the
host that belong to root would still be root's to change, were they reachable (below /proc/sys they
are). So the first bubblewrap, as root, only mounts what the second will show; between the two,
setpriv takes on an unprivileged user of the host, for ever; and the second makes the sandbox, as it
would for an ordinary user. The first stage is also what lets that user see an interpreter that lies
in root's home.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kernelsvc.sandbox.policy import CACHE, INNER_ID, RUNTIME, WORKSPACE, SandboxPolicy

_OWN_ETC = Path(__file__).with_name("etc")
_HOST_ETC = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "os-release",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
)
"""Of the host's /etc: what programs need to start, to check certificates and to tell the time."""

_MASKED_PROC = ("keys", "key-users", "timer_list", "interrupts", "kallsyms", "modules")
"""Files of /proc that tell of the host, not of the sandbox; empty inside."""
_MASKED_OF_FIRST = ("mem", "environ")
_MASKED_DIRECTORIES_OF_FIRST = ("fd", "map_files", "task")
"""By these, code could look into process 1 and change what it does."""


@dataclass(frozen=True)
class Place:
    """The directories of the host that a sandbox writes to: its session's, and its sockets'.

    `cache` is one that sandboxes share in which only what the service trusts ever runs.
    """

    workspace: Path
    runtime: Path
    cache: Path | None = None

    @property
    def directories(self) -> tuple[Path, ...]:
        """All of them."""
        shared = () if self.cache is None else (self.cache,)
        return (self.workspace, self.runtime, *shared)


def command(policy: SandboxPolicy, place: Place, seccomp_fd: int) -> list[str]:
    """The beginning of a command line; the program and its arguments follow it.

    `seccomp_fd` is a descriptor that the process inherits, at the beginning of the filter.
    """
    stages = _outer_stage(policy, place) if policy.host_id is not None else []
    return [*stages, "bwrap", *_sandbox(policy, place, seccomp_fd), "--"]


def _sandbox(policy: SandboxPolicy, place: Place, seccomp_fd: int) -> Iterator[str]:
    # User, mount, PID, network, IPC, UTS and cgroup namespaces.
    yield "--unshare-all"
    # The first stage ends, however it does: so does the sandbox. What stands without one may
    # outlive the service, and ends when it is hung up on (`standing`).
    if policy.host_id is not None:
        yield "--die-with-parent"
    # No terminal to type into (TIOCSTI).
    yield "--new-session"
    # The program is process 1: nothing survives it.
    yield "--as-pid-1"
    yield from ("--hostname", "sandbox")
    yield from ("--uid", str(INNER_ID), "--gid", str(INNER_ID))
    # Also where the service is root: no capability, not even within the user namespace.
    yield from ("--cap-drop", "ALL")
    yield from ("--add-seccomp-fd", str(seccomp_fd))

    yield from _programs()
    for name in _HOST_ETC:
        yield from _shown_if_there(Path("/etc", name))
    for name in ("passwd", "group", "hosts", "nsswitch.conf"):
        yield from ("--ro-bind", str(_OWN_ETC / name), f"/etc/{name}")

    # Processes of this sandbox only; the settings of the host's kernel can be read, not changed.
    yield from ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys")
    for name in _MASKED_PROC:
        if Path("/proc", name).exists():
            yield from ("--ro-bind", "/dev/null", f"/proc/{name}")
    for name in _MASKED_OF_FIRST:
        yield from ("--ro-bind", "/dev/null", f"/proc/1/{name}")
    for name in _MASKED_DIRECTORIES_OF_FIRST:
        yield from ("--tmpfs", f"/proc/1/{name}", "--remount-ro", f"/proc/1/{name}")

    # The usual devices, no others. Its root has no size limit, so it is made read-only.
    yield from ("--dev", "/dev")
    yield from ("--perms", "1777", "--size", str(policy.shm_bytes), "--tmpfs", "/dev/shm")
    yield from ("--remount-ro", "/dev")
    yield from ("--perms", "1777", "--size", str(policy.tmp_bytes), "--tmpfs", "/tmp")
    yield from ("--symlink", "../tmp", "/var/tmp")

    # After /tmp, for an interpreter that lies there.
    for path in policy.readable:
        yield from ("--ro-bind", str(path), str(path))
    yield from ("--bind", str(place.workspace), str(WORKSPACE))
    yield from ("--bind", str(place.runtime), str(RUNTIME))
    if place.cache is not None:
        yield from ("--bind", str(place.cache), str(CACHE))
    yield from ("--remount-ro", "/")
    yield from ("--chdir", "/")


def _outer_stage(policy: SandboxPolicy, place: Place) -> list[str]:
    """What root does first: show the second stage what it mounts, become nobody in particular."""
    shown = [part for name in _HOST_ETC for part in _shown_if_there(Path("/etc", name))]
    for path in place.directories:
        shown += ["--bind", str(path), str(path)]
    etc = (Path("/etc", name) for name in _HOST_ETC)
    return _as_unprivileged(policy, shown, (*place.directories, *etc))


def outside_command(policy: SandboxPolicy) -> list[str]:
    """The beginning of a command line for a process that serves a session from outside.

    As root, it too is the unprivileged user, which can look names up and write nowhere.
    """
    if policy.host_id is None:
        return []
    etc = Path("/etc")
    resolver = Path("/etc/resolv.conf").resolve()
    return _as_unprivileged(
        policy, [*_shown_if_there(etc), *_shown_if_there(resolver)], (resolver,)
    )


def _shown_if_there(path: Path) -> list[str]:
    return ["--ro-bind-try", str(path), str(path)]


def _as_unprivileged(policy: SandboxPolicy, shown: list[str], places: Iterable[Path]) -> list[str]:
    """Run what follows as the policy's user, on a file system of what `shown` mounts.

    `places` are the paths that it mounts.
    """
    readable = (*policy.readable, _OWN_ETC)
    # Whoever it becomes must be able to walk to what is shown, whatever the host's modes are.
    above = [
        part
        for path in _ancestors((*readable, *places))
        for part in ("--perms", "0755", "--dir", str(path))
    ]
    identity = str(policy.host_id)
    return [
        "bwrap",
        *above,
        *_programs(),
        *("--bind", "/proc", "/proc", "--dev-bind", "/dev", "/dev"),
        *(part for path in readable for part in ("--ro-bind", str(path), str(path))),
        *shown,
        *("--", "setpriv", "--reuid", identity, "--regid", identity, "--clear-groups"),
        *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"),
    ]


def _programs() -> Iterator[str]:
    """The system's programs and libraries, read-only."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))


def _ancestors(paths: Iterable[Path]) -> list[Path]:
    """Every directory above one of the paths but the root, outermost first, each once."""
    found = {parent for path in paths for parent in path.parents if parent != Path("/")}
    return sorted(found)

"""What a sandbox shows and allows, as values."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import kernelsvc

WORKSPACE = Path("/workspace")
"""Where a session's workspace is inside; the code's home and working directory."""
RUNTIME = Path("/run/kernel")
"""Where the kernel's sockets are inside."""
CACHE = Path("/cache")
"""Where the cache of downloads is inside of a sandbox that is shown it."""

INNER_ID = 1000
"""The user and group that code is inside."""


@dataclass(frozen=True)
class SandboxPolicy:
    """What every sandbox of this service has in common.

    `readable` is shown read-only at its own path, besides /usr. `tmp_bytes` and `shm_bytes` bound
    /tmp and /dev/shm. `host_id` is the user and group that a service which runs as root lets the
    code be on the host; None where the service's own user is unprivileged.
    """

    readable: tuple[Path, ...]
    tmp_bytes: int
    shm_bytes: int
    host_id: int | None


def python_environment() -> tuple[Path, ...]:
    """The directories that this interpreter's kernels import from and run, outside of /usr.

    Of a package that is installed editable, its own directory; of a home, only what Python uses.
    """
    wanted = {Path(sys.prefix), Path(sys.base_prefix), Path(kernelsvc.__file__).parent}
    wanted |= {Path(entry) for entry in sys.path if entry and Path(entry).is_dir()}
    # The interpreter may be reached by links that lead out of both prefixes.
    wanted |= {Path(sys.executable).resolve().parent.parent}
    package_parent = Path(kernelsvc.__file__).parents[1]
    shown = (
        path
        for path in sorted(wanted)
        if path.is_dir() and path != Path("/") and not _is_source_tree(path, package_parent)
    )
    return without_nested(path for path in shown if not path.is_relative_to("/usr"))


def _is_source_tree(path: Path, package_parent: Path) -> bool:
    """Whether it is on sys.path only for being where a checkout of ours is, or the working one."""
    return path in (package_parent, Path.cwd()) and not path.name.endswith("-packages")


def without_nested(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths, sorted, less those that lie in another of them."""
    kept: list[Path] = []
    for path in sorted(paths):
        if not any(path.is_relative_to(outer) for outer in kept):
            kept.append(path)
    return tuple(kept)

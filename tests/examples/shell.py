"""Running what a user would type, against a service of a test's own."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ANNOUNCEMENT = "kernelsvc answers on "


@dataclass(frozen=True)
class Service:
    """A service that answers at `url`; `directory` is for what the test needs besides."""

    url: str
    directory: Path


def bash(
    script: str, cwd: Path, *, timeout: float = 110, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `script` in `cwd` with `variables` in its environment; `kernelsvc` is on its path."""
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", os.defpath)
    return subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        env={**os.environ, "PATH": path, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )

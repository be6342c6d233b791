"""What was measured with, and on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

# By the names of their distributions.
PEERS = ("jupyter_server", "jupyter_kernel_gateway")
_PACKAGES = ("kernelsvc", "ipykernel", "jupyter_client", *PEERS, "pyzmq", "tornado")


def version_of(name: str) -> str | None:
    """The version of an installed distribution, None where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> str:
    """A few lines for above the table."""
    packages = (f"{name} {version_of(name) or '(not installed)'}" for name in _PACKAGES)
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return (
        f"{system}, {platform.platform()}, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f} at the start\n"
        f"Python {platform.python_version()}, {', '.join(packages)}"
    )

"""Two networks of this test's own: a host for the proxy, and an internet that it can reach.

Made in a user namespace, so it takes no privileges, and gone with the processes that hold them. The
addresses are those for documentation, which no policy denies.

    inside (a sandbox)    host 203.0.113.1, 2001:db8::1 ---- internet 203.0.113.7, 2001:db8::7
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOST, HOST6 = "203.0.113.1", "2001:db8::1"
INTERNET, INTERNET6 = "203.0.113.7", "2001:db8::7"

_HOLD = "echo up && exec cat >/dev/null"
_ENTER = ("--user", "--preserve-credentials", "--net", "--mount")


@dataclass(frozen=True)
class Networks:
    """Commands that run another one in the host's network or in the internet."""

    in_host: list[str]
    in_internet: list[str]


@contextlib.contextmanager
def two_networks(directory: Path) -> Iterator[Networks]:
    """The networks, with the servers of `tests.support.internet` in both and DNS in the second.

    The internet's web server serves the files in `directory`.
    """
    resolver = directory / "resolv.conf"
    resolver.write_text(f"nameserver {INTERNET}\noptions timeout:1 attempts:1\n")
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(
            _holding(
                ["unshare", "--user", "--map-root-user", "--net", "--mount"],
                f"mount --bind {resolver} $(realpath /etc/resolv.conf) && {_HOLD}",
            )
        )
        in_host = ["nsenter", "--target", str(host), *_ENTER, "--"]
        internet = stack.enter_context(_holding([*in_host, "unshare", "--net"], _HOLD))
        in_internet = ["nsenter", "--target", str(internet), *_ENTER, "--"]
        _run(in_host, f"ip link add uplink type veth peer name eth0 netns {internet}")
        _configure(in_host, "uplink", HOST, HOST6)
        _configure(in_internet, "eth0", INTERNET, INTERNET6)
        for enter in (in_host, in_internet):
            stack.enter_context(_serving(enter, directory))
        yield Networks(in_host, in_internet)


def _configure(enter: list[str], link: str, address: str, address6: str) -> None:
    _run(
        enter,
        f"ip link set lo up && ip link set {link} up && ip addr add {address}/24 dev {link}"
        f" && ip addr add {address6}/64 dev {link} nodad",
    )


def _run(enter: list[str], script: str) -> None:
    subprocess.run([*enter, "sh", "-c", script], check=True)


@contextlib.contextmanager
def _holding(enter: list[str], script: str) -> Iterator[int]:
    with _until_ready([*enter, "sh", "-c", script]) as process:
        yield process.pid


@contextlib.contextmanager
def _serving(enter: list[str], directory: Path) -> Iterator[None]:
    module = "tests.support.internet"
    with _until_ready([*enter, sys.executable, "-m", module, str(directory)]):
        yield


@contextlib.contextmanager
def _until_ready(argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that has said a line; it ends when its stdin does."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline().strip() == "up", f"{argv} did not come up"
            yield process
        finally:
            process.stdin.close()
            process.wait(10)

"""Fixtures: two networks, and proxies from one to the other."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tornado.ioloop import IOLoop

from kernelsvc.kernel_host.egress import offer_listener, proxy_environment
from kernelsvc.sandbox.egress.policy import Policy
from kernelsvc.sandbox.egress_process import Egress
from tests.support.namespaces import Networks, two_networks


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the port on which this process reaches it, as the inside of a sandbox would."""

    egress: Egress
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **proxy_environment(self.port)}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program with the variables that name the proxy, and nothing else."""
        done = subprocess.run(argv, env=self.environment, capture_output=True, timeout=60)
        return subprocess.CompletedProcess(
            argv, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def curl(self, *arguments: str) -> str:
        """What curl prints: the body, and on a line of its own the status and CONNECT's.

        Loopback is asked of the proxy too.
        """
        written = r"\n%{http_code} %{http_connect}"
        done = self.run("curl", "-sS", "-m", "30", "--noproxy", "", "-w", written, *arguments)
        return done.stdout + done.stderr

    def connect(self) -> socket.socket:
        """A connection to the proxy; what is read from it must come within 30 s."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def say(self, data: bytes) -> bytes:
        """All that the proxy answers to `data`, which is all that it gets."""
        with self.connect() as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has heard enough; its answer is there all the same
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side ends or breaks off."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the internet's web server serves below /files/."""
    return tmp_path_factory.mktemp("internet")


@pytest.fixture(scope="session")
def networks(files: Path) -> Iterator[Networks]:
    """The two networks, one pair for all tests of a process."""
    with two_networks(files) as made:
        yield made


@pytest.fixture
def start(io_loop: IOLoop, networks: Networks) -> Iterator[Callable[..., Proxy]]:
    """Start proxies in the host's network; they end with the test and leave nothing."""
    before = {child.pid for child in psutil.Process().children()}
    descriptors = len(os.listdir("/proc/self/fd"))
    stack = AsyncExitStack()

    async def serving(policy: Policy) -> Proxy:
        egress = await Egress.spawn(policy, prefix=networks.in_host)
        stack.push_async_callback(egress.close)
        port = offer_listener(os.dup(egress.fd_for_inside))
        egress.release_inside()
        await egress.wait_until_serving()
        return Proxy(egress, port)

    def starting(**policy: Any) -> Proxy:
        made: Proxy = io_loop.run_sync(lambda: serving(Policy.of(**policy)))
        return made

    yield starting
    io_loop.run_sync(stack.aclose)
    assert {child.pid for child in psutil.Process().children()} == before
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.fixture
def proxy(start: Callable[..., Proxy]) -> Proxy:
    """A proxy with the default policy."""
    return start()

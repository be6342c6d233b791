"""A peer's server in a process of its own."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.contestants.base import RunFailed

_PATIENCE_SECONDS = 120
_STOP_SECONDS = 20


class PeerProcess:
    """`python -m MODULE ARGUMENT...` that listens on `port`, with all its files in a directory.

    It has a session of its own, so that Ctrl-C does not reach it: `stop` ends it and its kernels.
    """

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = _free_port()
        self._directory = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's main process."""
        assert self._process is not None
        return self._process.pid

    async def start(self, *arguments: str) -> None:
        """Start it and wait until it listens; raises RunFailed with its log where it ends."""
        self._directory = tempfile.mkdtemp(prefix="ks")
        places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        environment = {name: f"{self._directory}/{name.lower()}" for name in places}
        log = Path(self._directory, "log")
        with log.open("wb") as stream:
            self._process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env={**os.environ, **environment, "PYTHONPATH": os.getcwd()},
            )
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not await self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RunFailed(f"{' '.join(arguments)} does not listen:\n{log.read_text()}")
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End it, the processes below it too."""
        if self._process is not None:
            below = psutil.Process(self.pid).children(recursive=True) if self._lives else []
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for child in below:
                if child.is_running():
                    child.kill()
            psutil.wait_procs(below, timeout=_STOP_SECONDS)
            self._process = None
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = ""

    @property
    def _lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        writer.close()
        return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port

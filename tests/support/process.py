"""A service in a process of its own, started by its command line."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any, ClassVar, Self
from urllib.parse import urlsplit

_END_SECONDS = 10.0


class ServiceProcess:
    """`kernelsvc serve` on a free port, in a data directory of its own; a context manager.

    On exit it gets SIGTERM and must end with status 0. `settings` become `KERNELSVC_*` variables.
    `stderr` is a file for its log; without one, it goes where the test's own goes.
    """

    running: ClassVar[set[int]] = set()
    """The process ids of those there are; their kernels are no business of other tests."""

    def __init__(self, stderr: IO[str] | None = None, **settings: Any) -> None:
        self._settings = settings
        self._stderr = stderr
        self._expected = 0

    def __enter__(self) -> Self:
        self.directory = tempfile.mkdtemp(prefix="ks")
        environment = {
            "KERNELSVC_DATA_DIR": f"{self.directory}/data",
            "KERNELSVC_RUNTIME_DIR": f"{self.directory}/run",
            "KERNELSVC_PORT": "0",
            "KERNELSVC_LOG_LEVEL": "warning",
            # Its kernels end with it, unless a test says else.
            "KERNELSVC_ORPHAN_GRACE": "0",
            **{f"KERNELSVC_{name.upper()}": str(value) for name, value in self._settings.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kernelsvc", "serve"],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, **environment},
            # Ctrl-C is for whoever started this, which then ends the service in good order.
            start_new_session=True,
        )
        self.running.add(self.process.pid)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        prefix = "kernelsvc answers on "
        if not line.startswith(prefix):
            raise RuntimeError(f"the service did not start: {line!r}")
        self.url = line.removeprefix(prefix).strip()
        address = urlsplit(self.url)
        assert address.hostname is not None
        assert address.port is not None
        self.host, self.port = address.hostname, address.port
        return self

    def kill(self) -> None:
        """SIGKILL; what it leaves below `directory` goes at the exit."""
        self.process.kill()
        self._expected = -signal.SIGKILL

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        with self.process:
            status = self.process.wait(60)
        self.running.discard(self.process.pid)
        self._remove()
        assert status == self._expected, f"the service ended with {status}"

    def _remove(self) -> None:
        """Remove what it has left; behind a kill, something of it may still be ending in there."""
        deadline = time.monotonic() + (_END_SECONDS if self._expected else 0)
        while Path(self.directory).exists():
            try:
                shutil.rmtree(self.directory)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

"""The service under torture: one after the other on the same directories."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any, Final, Self

import httpx
import psutil

from tests.support.process import ServiceProcess

_SETTINGS: Final[dict[str, Any]] = {
    "interrupt_grace": 3,
    "terminate_grace": 0.5,
    "drain_timeout": 20,
    "pool_min": 1,
    "pool_max": 2,
    # Nothing that was answered is to be forgotten, and no session to sleep for want of memory.
    "keep_runs": 10_000,
    "min_free_memory": "1MiB",
}
_ANSWER_SECONDS: Final = 90.0
LONG_GRACE: Final = 60.0
"""Kernels wait for the next service, which comes soon, on a machine that has much to do."""
SHORT_GRACE: Final = 0.3
"""They do not, where it is waited for that all ends."""


class Service:
    """`kernelsvc serve`, which can be started, killed and started again; a context manager.

    `pids` are those of all its lives, `scratch` the directories outside of its own that they had.
    """

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.scratch: set[Path] = set()
        self._process: ServiceProcess | None = None

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="ks"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.directory)

    @property
    def data(self) -> Path:
        """Where everything is that lasts."""
        return self.directory / "data"

    @property
    def runtime(self) -> Path:
        """Where its sockets are."""
        return self.directory / "run"

    @property
    def log(self) -> Path:
        """What it has logged, in all its lives."""
        return self.directory / "log"

    @property
    def is_running(self) -> bool:
        """Whether it should answer."""
        return self._process is not None

    def start(self, grace: float = LONG_GRACE) -> None:
        """Start it (again); kernels wait so many seconds for another, should it be killed."""
        assert self._process is None
        with self.log.open("a") as log:
            self._start(log, grace)

    def _start(self, log: IO[str], grace: float) -> None:
        own = {"data_dir": self.data, "runtime_dir": self.runtime, "orphan_grace": grace}
        process = ServiceProcess(log, **own, **_SETTINGS)
        self._process = process.__enter__()
        self.pids.append(process.process.pid)
        self.http = httpx.Client(base_url=process.url, timeout=_ANSWER_SECONDS, trust_env=False)

    def _end(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        self._note_scratch(process.process.pid)
        process.__exit__()
        self.http.close()

    def stop(self) -> None:
        """SIGTERM; raises AssertionError unless it ends well."""
        self._end()

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._note_scratch(self._process.process.pid)
        self._process.kill()
        self._end()

    def _note_scratch(self, pid: int) -> None:
        try:
            for child in psutil.Process(pid).children():
                if child.name() == "kernel-zygote":
                    self.scratch.add(Path(child.environ()["MPLCONFIGDIR"]))
        except (psutil.NoSuchProcess, KeyError):
            return


def groups_of(pids: list[int]) -> list[Path]:
    """The control groups that services of these numbers have made."""
    prefixes = tuple(f"kernelsvc-{pid}-" for pid in pids)
    root = Path("/sys/fs/cgroup")
    return [
        Path(parent, name)
        for parent, names, _ in os.walk(root)
        for name in names
        if name.startswith(prefixes)
    ]

"""A service that is killed and started again on the same directories, over and over."""

import asyncio
import contextlib
import os
import select
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from httpx import AsyncClient

from tests.support.api import Api
from tests.support.process import ServiceProcess

_END_SECONDS = 20.0


class Lives:
    """Each `life` is a process of its own; what one leaves, the next one finds. Ended by `end`."""

    def __init__(self, **settings: Any) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ks"))
        self.data, self.runtime = self.directory / "data", self.directory / "run"
        own = {"data_dir": self.data, "runtime_dir": self.runtime, "pool_max": 0}
        self._settings = {**own, "orphan_grace": 30, **settings}
        self._processes: dict[int, psutil.Process] = {}
        self.service: ServiceProcess

    @asynccontextmanager
    async def life(self, **settings: Any) -> AsyncIterator[Api]:
        """A service, until the block ends or it is killed within it."""
        with ServiceProcess(**{**self._settings, **settings}) as self.service:
            async with AsyncClient(base_url=self.service.url, timeout=60) as http:
                yield Api(http)

    async def begin_and_kill(self, stage: bytes | float) -> None:
        """A service that is killed as it starts: when it logs this, or after so many seconds."""
        given = {**self._settings, "port": 0}
        own = {f"KERNELSVC_{name.upper()}": str(value) for name, value in given.items()}
        starting = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kernelsvc", "serve"),
            env={**os.environ, **own},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert starting.stderr is not None
        if isinstance(stage, bytes):
            while stage not in await starting.stderr.readline():
                assert starting.returncode is None
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(starting.wait(), stage)
        starting.kill()
        await starting.communicate()

    def kill(self) -> None:
        """SIGKILL the service, and nothing else; returns when it is gone."""
        self.note()
        self.service.kill()
        self.service.process.wait()

    def note(self) -> list[psutil.Process]:
        """All processes that the service, and those before it, have started, by now."""
        children = defaultdict(list)
        for process in psutil.process_iter(["ppid"]):
            children[process.info["ppid"]].append(process)
        running = (each.pid for each in self._processes.values() if _runs(each))
        pids, found = [self.service.process.pid, *running], []
        for pid in pids:
            found += (of_this := children.pop(pid, []))
            pids += [child.pid for child in of_this]
        self._processes.update({process.pid: process for process in found})
        return found

    @property
    def processes(self) -> list[psutil.Process]:
        """All that was noted, of whichever service."""
        return list(self._processes.values())

    @property
    def caretaker(self) -> psutil.Process | None:
        """The caretaker, which may be an earlier service's; None where none runs."""
        of_all = self._processes.values()
        found = (each for each in of_all if _runs(each) and "kernelsvc.caretaker" in each.cmdline())
        return next(found, None)

    def kept(self) -> int:
        """How many seats the caretaker holds."""
        if self.caretaker is None:
            return 0
        seats = 0
        for held in Path(f"/proc/{self.caretaker.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                seats += "kernelsvc-seat" in str(held.readlink())
        return seats

    def workspace(self, session_id: str = "s") -> Path:
        """The session's files, from outside."""
        return self.data / "workspaces" / session_id

    def left(self, seconds: float = _END_SECONDS) -> list[psutil.Process]:
        """What still runs of all that was noted, after so long at most."""
        deadline = time.monotonic() + seconds
        running = [each for each in self._processes.values() if _runs(each)]
        for process in running:
            # Not psutil's waiting, which polls those that are no children of ours.
            _wait(process, deadline - time.monotonic())
        return [each for each in running if _runs(each)]

    def end(self) -> None:
        """Remove all that it had; fails where something runs still, or a directory is left."""
        left, directories = self.left(), list(self.runtime.glob("*/"))
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.directory)
        assert left == [], "the service left processes behind"
        assert directories == [], "the service left runtime directories behind"


def _runs(process: psutil.Process) -> bool:
    """Whether it lives; whoever has become its parent may take its time to collect it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _wait(process: psutil.Process, seconds: float) -> None:
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        select.select([descriptor], [], [], max(0.0, seconds))
    finally:
        os.close(descriptor)

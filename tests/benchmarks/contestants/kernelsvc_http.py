"""Ours: a real `kernelsvc serve`, over HTTP."""

import asyncio
import re
import subprocess
import sys
from itertools import count
from typing import Any

from tests.benchmarks.contestants.base import Contestant, RunFailed, Session
from tests.benchmarks.contestants.connection import JsonConnection
from tests.benchmarks.plan import Unmeasurable
from tests.support.process import ServiceProcess

# A kernel takes less than this to be made ready, even by who is held back.
_SETTLED_SECONDS = 2.0


class KernelsvcSession(Session):
    """A session, with a connection of its own."""

    def __init__(self, session_id: str, connection: JsonConnection) -> None:
        self.path = f"/api/sessions/{session_id}"
        self._connection = connection

    async def run(self, code: str, **fields: Any) -> str:
        answer = await self.answer_to(code, **fields)
        if answer["exit_code"] != 0:
            raise RunFailed(f"{code[:200]!r}: {answer}")
        return str(answer["stdout"])

    async def answer_to(self, code: str, **fields: Any) -> dict[str, Any]:
        """Run code; the whole answer, whatever became of the run."""
        answer: dict[str, Any] = await self._connection.request(
            "POST", f"{self.path}/run", {"code": code, **fields}
        )
        return answer

    async def fork(self, count: int) -> list["KernelsvcSession"]:
        """So many live copies."""
        made = await self._connection.request("POST", f"{self.path}/fork", {"count": count})
        host, port = self._connection.host, self._connection.port
        return [
            KernelsvcSession(copy["id"], await JsonConnection(host, port).open())
            for copy in made["sessions"]
        ]

    async def sleep(self) -> None:
        """Put it to sleep; its next run wakes it."""
        await self._connection.request("POST", f"{self.path}/sleep")

    async def close(self) -> None:
        # A new one: on the old one, a run that was given up may still be going on.
        await self._connection.close()
        await self._connection.open()
        await self._connection.request("DELETE", self.path)
        await self._connection.close()


class Kernelsvc(Contestant):
    """The service in a process of its own; `settings` go to it as `KERNELSVC_*` variables."""

    name = "kernelsvc"

    def __init__(self, name: str = "kernelsvc", **settings: Any) -> None:
        self.name = name
        # Neither idle connections nor idle sessions may end while others have their turn.
        self._settings = {
            "header_timeout": "1h",
            "sleep_after": "never",
            "log_level": "error",
            **settings,
        }
        self._numbers = count()
        self._process: ServiceProcess | None = None

    async def start(self) -> None:
        if "sandbox" not in self._settings and not sandbox_holds():
            raise Unmeasurable("kernels cannot be sandboxed here; `kernelsvc doctor` says why")
        process = ServiceProcess(**self._settings)
        process.__enter__()
        self._process = process

    async def stop(self) -> None:
        if self._process is not None:
            self._process.__exit__()
            self._process = None

    @property
    def pid(self) -> int:
        """The service's main process."""
        assert self._process is not None
        return self._process.process.pid

    @property
    def url(self) -> str:
        """Where it answers."""
        assert self._process is not None
        return self._process.url

    async def settle(self) -> None:
        """Return when a kernel waits, and no other is being made ready."""
        assert self._process is not None
        connection = await JsonConnection(self._process.host, self._process.port).open()
        seen = -1.0
        async with asyncio.timeout(60):
            while (waiting := _gauge(await connection.fetch("GET", "/metrics"))) != seen:
                seen = waiting
                await asyncio.sleep(_SETTLED_SECONDS)
        await connection.close()

    async def create(self, **fields: Any) -> KernelsvcSession:
        assert self._process is not None
        connection = await JsonConnection(self._process.host, self._process.port).open()
        session_id = f"benchmark-{next(self._numbers)}"
        body = {"language": "python", "session_id": session_id, **fields}
        await connection.request("POST", "/api/sessions", body)
        return KernelsvcSession(session_id, connection)


def _gauge(metrics: bytes) -> float:
    """How many kernels wait."""
    (found,) = re.findall(rb"^kernelsvc_pool_members (\S+)$", metrics, re.MULTILINE)
    return float(found)


def sandbox_holds() -> bool:
    """Whether the service would sandbox its kernels on this machine."""
    doctor = [sys.executable, "-m", "kernelsvc", "doctor"]
    return subprocess.run(doctor, capture_output=True).returncode == 0

"""jupyter_client's own asyncio client on a stock ipykernel: what a program that drives kernels
itself would have."""

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from itertools import count
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from tests.benchmarks.contestants.base import Contestant, RunFailed, Session

_PATIENCE_SECONDS = 60
_ASK_AGAIN_SECONDS = 0.1


class BareSession(Session):
    """A kernel and a client."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager = manager
        self._client = client

    async def run(self, code: str) -> str:
        return await self.result_of(self.send(code))

    def send(self, code: str) -> str:
        """Send an execute request; its id."""
        return str(self._client.execute(code))

    async def result_of(self, request_id: str, raised: bool = False) -> str:
        """What it wrote, when its reply and its idle are here; `raised` says how it should end."""
        written = []
        while True:
            message = await self._client.get_iopub_msg(timeout=_PATIENCE_SECONDS)
            if message["parent_header"].get("msg_id") != request_id:
                continue
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                written.append(content["text"])
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        reply: dict[str, Any] = {"parent_header": {}}
        while reply["parent_header"].get("msg_id") != request_id:
            reply = await self._client.get_shell_msg(timeout=_PATIENCE_SECONDS)
        if (reply["content"]["status"] == "error") != raised:
            raise RunFailed(f"the kernel answered {reply['content']}")
        return "".join(written)

    async def interrupt(self) -> None:
        """Interrupt what runs."""
        await self.manager.interrupt_kernel()

    async def ready(self) -> None:
        """Return when the kernel answers and its output is subscribed to.

        The client's own `wait_for_ready` takes 0.2 s longer than that.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self._client.kernel_info()
            with contextlib.suppress(Empty):
                await self._client.get_iopub_msg(timeout=_ASK_AGAIN_SECONDS)
                return
        raise RunFailed("the kernel did not start")

    async def close(self) -> None:
        self._client.stop_channels()
        await self.manager.shutdown_kernel(now=True)


class Bare(Contestant):
    """Kernels of this process; their files are in a directory of their own."""

    def __init__(self, transport: str = "tcp") -> None:
        self.name = f"bare client ({transport})"
        self._transport = transport
        self._numbers = count()
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._sessions: list[BareSession] = []

    async def start(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="ks")

    async def stop(self) -> None:
        left = [each for each in self._sessions if each.manager.has_kernel]
        await asyncio.gather(*(each.close() for each in left))
        if self._directory is not None:
            self._directory.cleanup()

    async def create(self) -> BareSession:
        assert self._directory is not None
        manager = AsyncKernelManager(
            kernel_name="python3",
            transport=self._transport,
            connection_file=f"{self._directory.name}/{next(self._numbers)}.json",
        )
        client = AsyncKernelClient()
        session = BareSession(manager, client)
        self._sessions.append(session)
        await manager.start_kernel(
            env={**os.environ, "IPYTHONDIR": f"{self._directory.name}/i"},
            stderr=subprocess.DEVNULL,  # a warning that TCP is not encrypted, for each kernel
        )
        client.load_connection_info(manager.get_connection_info())
        client.start_channels(stdin=False, hb=False)
        await session.ready()
        return session

    def pids(self) -> list[int]:
        """The kernels' processes."""
        left = (each.manager for each in self._sessions if each.manager.has_kernel)
        return [int(getattr(manager.provisioner, "pid")) for manager in left]  # noqa: B009

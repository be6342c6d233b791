"""A real jupyter-kernel-gateway, whose kernels are started before anybody asks."""

import asyncio
from contextlib import suppress
from typing import Any

from tests.benchmarks.contestants.base import RunFailed, first_run
from tests.benchmarks.contestants.connection import JsonConnection
from tests.benchmarks.contestants.websocket import WebSocketPeer

_PATIENCE_SECONDS = 120


class KernelGateway(WebSocketPeer):
    """With `prespawned` kernels; a client finds them in the list of kernels and takes one.

    There are no sessions beyond those.
    """

    def __init__(self, prespawned: int = 1) -> None:
        super().__init__()
        self.name = "kernel gateway, prespawned"
        self._prespawned = prespawned
        self._taken: set[str] = set()

    async def start(self) -> None:
        await self._server.start(
            "kernel_gateway",
            f"--KernelGatewayApp.port={self._server.port}",
            "--KernelGatewayApp.port_retries=0",
            f"--KernelGatewayApp.ip={self._server.host}",
            f"--KernelGatewayApp.prespawn_count={self._prespawned}",
            "--JupyterWebsocketPersonality.list_kernels=True",
            "--KernelGatewayApp.log_level=WARN",
        )
        rest = await self.rest()
        try:
            kernels: list[dict[str, Any]] = []
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while len(kernels) < self._prespawned:
                    await asyncio.sleep(0.1)
                    # It answers 500 while one of them is being started.
                    with suppress(RunFailed):
                        kernels = await rest.request("GET", "/api/kernels")
        finally:
            await rest.close()
        # The list calls them "starting" until somebody has talked to them.
        for kernel in kernels:
            session = await self.connected(kernel["id"], await self.rest())
            await first_run(session)
            await session.hang_up()

    async def kernel(self, rest: JsonConnection) -> str:
        for kernel in await rest.request("GET", "/api/kernels"):
            if kernel["id"] not in self._taken:
                self._taken.add(kernel["id"])
                return str(kernel["id"])
        raise RunFailed("all prespawned kernels are taken")

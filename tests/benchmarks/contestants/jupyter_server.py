"""A real `jupyter server`."""

from tests.benchmarks.contestants.websocket import WebSocketPeer

_NODELAY = "tests.benchmarks.contestants.nodelay"


class JupyterServer(WebSocketPeer):
    """As it is, or with TCP_NODELAY on its websockets."""

    def __init__(self, nodelay: bool = False) -> None:
        super().__init__()
        self._wrapper = (_NODELAY,) if nodelay else ()
        self.name = "jupyter_server" + (" + nodelay" if nodelay else "")

    async def start(self) -> None:
        await self._server.start(
            *self._wrapper,
            "jupyter_server",
            "--no-browser",
            "--allow-root",
            f"--ServerApp.port={self._server.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.ip={self._server.host}",
            "--ServerApp.disable_check_xsrf=True",
            "--ServerApp.log_level=WARN",
            "--IdentityProvider.token=",
        )

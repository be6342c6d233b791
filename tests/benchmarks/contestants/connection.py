"""HTTP/1.1 with as little of a client as there can be: what is measured is the server."""

import asyncio
import json
from typing import Any

from tests.benchmarks.contestants.base import RunFailed

_BUFFER_BYTES = 1 << 22


class JsonConnection:
    """One connection that is kept alive; a request after the other. asyncio sets TCP_NODELAY."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> "JsonConnection":
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(
            self.host, self.port, limit=_BUFFER_BYTES
        )
        return self

    async def request(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of the answer, None where it has none; raises RunFailed unless it is a 2xx."""
        answer = await self.fetch(method, path, body)
        return json.loads(answer) if answer else None

    async def fetch(self, method: str, path: str, body: object = None) -> bytes:
        """The answer's body; raises RunFailed unless it is a 2xx."""
        assert self._writer is not None
        payload = b"" if body is None else json.dumps(body).encode()
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
            + payload
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        answer = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 2"):
            raise RunFailed(f"{method} {path}: {head.decode()}{answer.decode()}")
        return answer

    async def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
            await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)
            self._writer = None

"""What there is in the tests' internet: a web server, an echo server, a name server.

`python -m tests.support.internet DIRECTORY` prints `up` and serves until its stdin ends.

Web, on port 80 (IPv4 and IPv6). It ignores `Connection: close`, as bad servers do:
    /echo           answers the request as it came, head and body
    /chunked        an answer in chunks, with a trailer
    /until-close    an answer without a length
    /endless        an answer that never ends
    /both-lengths   an answer with a Content-Length and in chunks
    /cut            an answer that breaks off
    /nonsense       an answer that is no HTTP
    /early          answers 413 before it has read the body, and hangs up
    /seen           every request line so far, one a line
    /sent           how many bytes /endless has sent
    /files/...      files below DIRECTORY
Count, on port 7: answers how many bytes came, once the client has ended its side.
DNS: `rebinding.test` is 203.0.113.7 for the first question and 127.0.0.1 for all later ones,
`loopback.test` is 127.0.0.1, `web.test` is 203.0.113.7, `several.test` is both.
"""

import asyncio
import contextlib
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

INTERNET = "203.0.113.7"
LOOPBACK = "127.0.0.1"

NAMES = {
    "web.test": [INTERNET],
    "loopback.test": [LOOPBACK],
    "several.test": [LOOPBACK, INTERNET],
}


class Web:
    """The web server; knows what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.seen: list[str] = []
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self.serve_one(reader, writer):
                pass
        writer.close()

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether the connection can be used again."""
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.decode("latin-1").partition("\r\n")[0]
        path = line.split()[1].partition("?")[0]
        self.seen.append(line)
        if path == "/early":
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nlate")
            await writer.drain()
            return False
        if b"100-continue" in head:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await read_body(head.lower(), reader)
        match path:
            case "/echo":
                await self.answer(writer, head + body)
            case "/seen":
                await self.answer(writer, "\n".join(self.seen).encode())
            case "/sent":
                await self.answer(writer, str(self.sent).encode())
            case "/endless":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    writer.write(bytes(65536))
                    await writer.drain()
                    self.sent += 65536
            case _ if path.startswith("/files/"):
                await self.answer_file(writer, path.removeprefix("/files/"))
            case _:
                writer.write(ODD[path])
                await writer.drain()
                return False
        return True

    async def answer(self, writer: asyncio.StreamWriter, body: bytes, status: str = "200") -> None:
        writer.write(f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\n".encode())
        writer.write(b"Content-Type: text/html\r\nKeep-Alive: timeout=5\r\n\r\n" + body)
        await writer.drain()

    async def answer_file(self, writer: asyncio.StreamWriter, name: str) -> None:
        path = self.directory / name
        if path.is_dir():
            path = path / "index.html"
        if path.is_file():
            await self.answer(writer, path.read_bytes())
        else:
            await self.answer(writer, b"", "404")


ODD = {
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
    b"4\r\nfour\r\n6\r\n and 6\r\n0\r\nX-T: 1\r\n\r\n",
    "/until-close": b"HTTP/1.1 200 OK\r\n\r\nuntil close",
    "/both-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\nfour\r\n0\r\n\r\n",
    "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut",
    "/nonsense": b"\0\1\2 nonsense\r\n\r\n",
}


async def read_body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """The body as it came, chunk sizes and all."""
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.readuntil(b"\r\n")
        return body
    _, found, rest = head.partition(b"\r\ncontent-length:")
    return await reader.readexactly(int(rest.partition(b"\r\n")[0])) if found else b""


async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    size = 0
    while data := await reader.read(65536):
        size += len(data)
    writer.write(str(size).encode())
    writer.close()


class NameServer(asyncio.DatagramProtocol):
    """Answers questions for A; there is no AAAA."""

    def __init__(self) -> None:
        self.rebinding = [INTERNET]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        end = data.index(0, 12)
        question, kind = data[12 : end + 5], data[end + 1 : end + 3]
        name = read_name(data[12:end])
        addresses = NAMES.get(name, [])
        if name == "rebinding.test" and kind == b"\0\1":
            addresses = [self.rebinding.pop() if self.rebinding else LOOPBACK]
        if kind != b"\0\1":
            addresses = []
        head = data[:2] + b"\x81\x80\0\1" + len(addresses).to_bytes(2, "big") + bytes(4)
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4"
        answers = b"".join(record + IPv4Address(address).packed for address in addresses)
        self.transport.sendto(head + question + answers, addr)


def read_name(labels: bytes) -> str:
    names = []
    while labels:
        names.append(labels[1 : labels[0] + 1].decode())
        labels = labels[labels[0] + 1 :]
    return ".".join(names).lower()


async def main() -> None:
    web = Web(Path(sys.argv[1]))
    loop = asyncio.get_running_loop()
    await asyncio.start_server(web.serve, ["0.0.0.0", "::"], 80)
    await asyncio.start_server(count, "0.0.0.0", 7)
    await loop.create_datagram_endpoint(NameServer, ("0.0.0.0", 53))
    print("up", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

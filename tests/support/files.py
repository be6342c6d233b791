"""Raw bytes to and from a session's files, and traps for whoever opens what is there."""

import io
import os
import socket
import stat
import tarfile
from pathlib import Path
from urllib.parse import quote

import httpx

from tests.support.api import Api


def url(path: str, session_id: str = "s") -> str:
    """Where the file is."""
    return f"/api/sessions/{session_id}/files/{quote(path)}"


async def put(
    api: Api, path: str, content: bytes, session_id: str = "s", **headers: str
) -> httpx.Response:
    """Put a file; underscores in headers' names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.http.put(url(path, session_id), content=content, headers=named)


async def get(api: Api, path: str, session_id: str = "s", **headers: str) -> httpx.Response:
    """Get a file."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.http.get(url(path, session_id), headers=named)


async def paths(api: Api, session_id: str = "s") -> list[str]:
    """The paths of all files, as listed."""
    answer = await api.send("GET", f"/api/sessions/{session_id}/files")
    assert answer.status == 200, answer
    return [file["path"] for file in answer.json["files"]]


def tar_gz(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A tar.gz of files, and of members that are given as they are."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member, io.BytesIO(bytes(member.size)))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def make_trap(path: Path, kind: str, secret: Path) -> None:
    """Put something in place that must not be opened; `secret` is what a link leads to."""
    match kind:
        case "link":
            path.symlink_to(secret)
        case "link to itself":
            path.symlink_to(path.name)
        case "link to nothing":
            path.symlink_to("nothing")
        case "link to a device":
            path.symlink_to("/dev/zero")
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            made = socket.socket(socket.AF_UNIX)
            here = os.open(path.parent, os.O_PATH)
            try:
                made.bind(f"/proc/self/fd/{here}/{path.name}")
            finally:
                os.close(here)
                made.close()
        case "device":
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        case "directory":
            path.mkdir()


TRAPS = ["link", "link to itself", "link to nothing", "link to a device", "FIFO", "socket",
         "directory", *(["device"] if os.geteuid() == 0 else [])]  # fmt: skip

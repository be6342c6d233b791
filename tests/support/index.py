"""An index of Python packages and a registry of npm's, whose packages are made on the fly."""

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Self

ADDRESS = "127.0.0.2"
"""Not 127.0.0.1, for which programs ask no proxy."""


class Index:
    """Serves what has been added; `seen` are the paths that were asked for.

    A path in `held` is answered once it is no longer there.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.held: set[str] = set()
        self._files: dict[str, bytes] = {}
        self._projects: dict[str, list[str]] = {}
        self._changed = asyncio.Condition()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, ADDRESS, 0)
        self.url = f"http://{ADDRESS}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.release()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which pip and Deno use it."""
        return {
            "PIP_INDEX_URL": f"{self.url}/simple",
            "PIP_TRUSTED_HOST": ADDRESS,
            "NPM_CONFIG_REGISTRY": f"{self.url}/npm/",
        }

    @property
    def settings(self) -> dict[str, object]:
        """The settings of a service that uses it."""
        return {
            "setup_environment": self.environment,
            "internet_networks": [f"{ADDRESS}/32"],
        }

    def downloads(self, name: str) -> int:
        """How often a file was asked for."""
        return self.seen.count(f"/files/{name}")

    async def release(self) -> None:
        """Answer what is held."""
        self.held.clear()
        async with self._changed:
            self._changed.notify_all()

    def add_wheel(
        self, name: str, version: str = "1.0", *, source: str = "", metadata: str = ""
    ) -> str:
        """A wheel with one module; returns the name of the file."""
        information = f"{name}-{version}.dist-info"
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}"
        file = f"{name}-{version}-py3-none-any.whl"
        members = {
            f"{name}.py": source or f"version = {version!r}\n",
            f"{information}/METADATA": about,
            f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
            "Tag: py3-none-any\n",
            f"{information}/RECORD": "",
        }
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as wheel:
            for path, text in members.items():
                wheel.writestr(path, text)
        return self._add(name, file, content.getvalue())

    def add_sdist(self, name: str, backend: str) -> str:
        """A package that is built by code of its own; returns the name of the file."""
        project = (
            f'[project]\nname = "{name}"\nversion = "1.0"\n'
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        members = {"pyproject.toml": project, "backend.py": backend, "PKG-INFO": about}
        return self._add(name, f"{name}-1.0.tar.gz", packed(members, f"{name}-1.0"))

    def add_page(self, path: str) -> None:
        """A page with nothing on it."""
        self._files[path] = b""

    def _add(self, name: str, file: str, content: bytes) -> str:
        self._files[f"/files/{file}"] = content
        self._projects.setdefault(name.replace("_", "-"), []).append(file)
        return file

    def add_npm(self, name: str, source: str, version: str = "1.0.0") -> None:
        """A package of npm's with one module."""
        package = {"name": name, "version": version, "main": "index.js"}
        scripts = {"postinstall": "touch /workspace/SCRIPT_RAN node_modules/SCRIPT_RAN"}
        content = packed(
            {"package.json": json.dumps({**package, "scripts": scripts}), "index.js": source},
            "package",
        )
        path = f"/files/{name.replace('/', '-')}-{version}.tgz"
        digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
        dist = {"tarball": self.url + path, "integrity": f"sha512-{digest}"}
        self._files[path] = content
        self._files[f"/npm/{name}"] = json.dumps(
            {
                "name": name,
                "dist-tags": {"latest": version},
                "versions": {version: {**package, "scripts": scripts, "dist": dist}},
            }
        ).encode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode().replace("%2f", "/").replace("%2F", "/")
            self.seen.append(path)
            async with self._changed:
                await self._changed.wait_for(lambda: path not in self.held)
            status, content = self._answer(path)
            kind = "application/json" if path.startswith("/npm/") else "text/html"
            writer.write(
                f"HTTP/1.1 {status} .\r\nContent-Type: {kind}\r\n"
                f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
                + content
            )
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def _answer(self, path: str) -> tuple[int, bytes]:
        files = self._projects.get(path.removeprefix("/simple/").strip("/"))
        if files is None:
            return (200, self._files[path]) if path in self._files else (404, b"")
        digests = {file: hashlib.sha256(self._files[f"/files/{file}"]) for file in files}
        links = (f'<a href="/files/{f}#sha256={d.hexdigest()}">{f}</a>' for f, d in digests.items())
        return 200, "\n".join(links).encode()


def packed(members: Mapping[str, str], directory: str) -> bytes:
    """A tar.gz of texts in one directory."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path, text in members.items():
            member = tarfile.TarInfo(f"{directory}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()

"""What setups have downloaded, kept for those to come.

Theory of operation. Several may download at once: pip and Deno put a file into their cache under
another name first. Taking something away is another matter, since a package is a directory that
counts as there when it exists. So nobody downloads while things are removed: when the cache has
grown too large, newcomers wait until those who use it are done.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

_KEPT_SHARE: Final = 0.75
_LOOK_BYTES: Final = 64 << 20
_NPM: Final = Path("deno", "npm")
"""Where Deno keeps packages: below, a directory for each registry, package and version."""
_BODY: Final = ".body"
"""pip keeps the body of an answer beside it, and takes one without its body for an empty one."""

log = structlog.get_logger()


@dataclass
class _Unit:
    """What goes together or not at all. `written_at` is when some of it was written last."""

    path: Path
    size: int = 0
    written_at: float = 0.0


class DownloadCache:
    """The cache in directory `path`, of `most_bytes` bytes about."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self._most_bytes = most_bytes
        self._users = 0
        self._lock = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._free = 0

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Use it; waits while it is to be made smaller."""
        await self._open.wait()
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._tidy_up()

    async def _tidy_up(self) -> None:
        async with self._lock:
            if await asyncio.to_thread(self.size) > self._most_bytes:
                self._open.clear()
            if not self._users:
                if not self._open.is_set():
                    await asyncio.to_thread(self.trim)
                self._open.set()

    def outgrows(self, beyond: float) -> bool:
        """Whether it has become larger than it may be, and by more than `beyond` bytes; blocks.

        Called again and again: looks closer only where the file system has filled up noticeably.
        """
        found = os.statvfs(self.path)
        free = found.f_bavail * found.f_frsize
        if free > self._free - _LOOK_BYTES:
            self._free = max(free, self._free)
            return False
        self._free = free
        return self.size() > self._most_bytes + beyond

    def size(self) -> int:
        """The bytes of all files in it; blocks."""
        return sum(unit.size for unit in self._units())

    def trim(self) -> None:
        """Where it is too large, delete what was written longest ago; blocks."""
        units = sorted(self._units(), key=lambda unit: unit.written_at)
        before = left = sum(unit.size for unit in units)
        if before <= self._most_bytes:
            return
        for unit in units:
            if left <= self._most_bytes * _KEPT_SHARE:
                break
            left -= unit.size
            _delete(unit.path)
            _delete(unit.path.with_name(unit.path.name + _BODY))
        log.info("setup_cache_trimmed", size_before=before, size=left)

    def _units(self) -> list[_Unit]:
        found: dict[Path, _Unit] = {}
        for directory, _, names in os.walk(self.path):
            for name in names:
                path = Path(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    key = self._key(path)
                    unit = found.setdefault(key, _Unit(key))
                    unit.size += status.st_size
                    unit.written_at = max(unit.written_at, status.st_ctime)
        return list(found.values())

    def _key(self, path: Path) -> Path:
        """What a file is a part of: an npm package, an answer with its body, or only itself."""
        npm = self.path / _NPM
        if path.is_relative_to(npm):
            parts = path.relative_to(npm).parts
            is_scoped = any(name.startswith("@") for name in parts[1:2])
            return npm.joinpath(*parts[: 4 if is_scoped else 3])
        return path.with_name(path.name.removesuffix(_BODY))


def _delete(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

"""A workspace as a tar.gz: made piece by piece, and read without trusting it.

What is packed are regular files and directories, at the permissions that they have but for setuid,
setgid and sticky bits. Links, FIFOs, sockets and devices are left out, and so are the service's own
files. A file that shrinks while it is packed is filled up with zeros, as tar does.
"""

import os
import stat
import tarfile
import threading
import zlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack

from kernelsvc.files.beneath import NotRegular, open_regular
from kernelsvc.files.own import what_it_is
from kernelsvc.files.tree import Entry, walk
from kernelsvc.files.workspace import Workspaces

_PIECE = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 6


class Packing:
    """A workspace that goes out as a tar.gz; may be closed while a thread reads.

    Raises OSError where there is no workspace.
    """

    def __init__(self, workspaces: Workspaces, session_id: str) -> None:
        self._lock = threading.Lock()
        self._resources = ExitStack()
        workspace = self._resources.enter_context(workspaces.directory(session_id))
        self._pieces = _pack(workspace, workspaces.owner_uid)

    def read(self) -> bytes:
        """The next piece; nothing at the end, and once it is closed."""
        with self._lock:
            return next(self._pieces, b"")

    def close(self) -> None:
        """Free it; again is fine."""
        with self._lock:
            self._pieces.close()
            self._resources.close()


def _pack(workspace: int, owner: int) -> Generator[bytes, None, None]:
    gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    pending = bytearray()
    for block in _blocks(workspace, owner):
        pending += gzip.compress(block)
        if len(pending) >= _PIECE:
            yield bytes(pending)
            pending.clear()
    pending += gzip.flush()
    yield bytes(pending)


def _blocks(workspace: int, owner: int) -> Iterator[bytes]:
    size = 0
    for entry in walk(workspace):
        if entry.path is None or what_it_is(entry.path):
            continue
        for block in _member(entry, owner):
            size += len(block)
            yield block
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(size + end) % tarfile.RECORDSIZE)


def _member(entry: Entry, owner: int) -> Iterator[bytes]:
    assert entry.path is not None
    if stat.S_ISDIR(entry.status.st_mode):
        yield _header(entry.path, entry.status, tarfile.DIRTYPE)
        return
    if not stat.S_ISREG(entry.status.st_mode):
        return
    try:
        descriptor = open_regular(entry.directory, entry.name, owner)
    except (NotRegular, OSError):
        # Gone, something else by now, or kept from us.
        return
    try:
        status = os.fstat(descriptor)
        yield _header(entry.path, status, tarfile.REGTYPE)
        offset = 0
        while offset < status.st_size:
            data = os.pread(descriptor, min(_PIECE, status.st_size - offset), offset)
            data = data or bytes(min(_PIECE, status.st_size - offset))
            offset += len(data)
            yield data
        yield bytes(-status.st_size % tarfile.BLOCKSIZE)
    finally:
        os.close(descriptor)


def _header(path: bytes, status: os.stat_result, kind: bytes) -> bytes:
    member = tarfile.TarInfo(path.decode("utf-8", "surrogateescape"))
    member.type = kind
    member.mode = stat.S_IMODE(status.st_mode) & 0o777
    member.mtime = max(0, int(status.st_mtime))
    member.size = status.st_size if kind == tarfile.REGTYPE else 0
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

"""The file that a namespace is kept in: a preamble, frames, and an index of them as JSON.

    magic, 16 bytes | where the index is, 8 | its size, 8 | its SHA-256, 32 | frames ... | index

A frame is a pickle of protocol 5, and behind it, each aligned, the buffers that it was pickled
without: an array's memory goes to the file and back without a copy. The preamble is written last,
so a file that was not finished is none.
"""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import PickleBuffer
from typing import IO, Any, Literal

MAGIC = b"kernelsvc-mem-1\n"
"""The number in it is the format's version."""
_PREAMBLE = len(MAGIC) + 8 + 8 + 32
_MOST_INDEX_BYTES = 64 << 20
_ALIGNMENT = 64
_CHUNK = 16 << 20
_SYNC_BYTES = 64 << 20

Kind = Literal["variable", "output", "state", "all"]


class Unusable(Exception):
    """The file is no memory of this session's that can be read here; says why."""


class NoRoom(Exception):
    """There is no room, or no time, for what was to be written; says which."""


@dataclass
class Frame:
    """Where something is in the file: the pickle of `size` bytes at `offset`, then its buffers.

    Of each buffer: where it begins, its size, and whether it can be written to.
    """

    kind: Kind
    name: str
    offset: int
    size: int = 0
    buffers: list[tuple[int, int, bool]] = field(default_factory=list)
    sha256: str = ""


@dataclass
class Index:
    """What is in the file: whose it is, made by what, and why some of it is not there."""

    token: str
    python: str
    bytecode: str
    created_at: float
    libraries: dict[str, str]
    frames: list[Frame] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


class Writer:
    """Writes a file of at most `most` bytes, until `until` (time.monotonic()).

    `alive` is called now and then while it gets on.
    """

    def __init__(self, fd: int, most: int, until: float, alive: Callable[[], None]) -> None:
        self._fd = fd
        self._most = most
        self._until = until
        self._alive = alive
        self._hash: Any = None
        self._unsynced = 0
        self.size = 0
        self._put(bytes(_PREAMBLE))

    @contextmanager
    def frame(self, kind: Kind, name: str) -> Iterator[tuple[Frame, list[PickleBuffer]]]:
        """Write a frame: its pickle by `write`, the buffers that were listed behind it.

        Where that raises, the file is as it was before.
        """
        begin = self.size
        frame, buffers = Frame(kind, name, begin), list[PickleBuffer]()
        self._hash = hashlib.sha256()
        try:
            yield frame, buffers
            frame.size = self.size - begin
            for buffer in buffers:
                with buffer.raw() as raw:
                    self.write(bytes(-self.size % _ALIGNMENT))
                    frame.buffers.append((self.size, raw.nbytes, not raw.readonly))
                    for start in range(0, raw.nbytes, _CHUNK):
                        self.write(raw[start : start + _CHUNK])
        except BaseException:
            self._go_back(begin)
            raise
        frame.sha256 = self._hash.hexdigest()

    def take_back(self, frame: Frame) -> None:
        """Have it not written, nor what is behind it."""
        self._go_back(frame.offset)

    def _go_back(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)
        self.size = size

    def write(self, data: Any) -> int:
        """Take bytes of a frame, as a pickler's file; raises NoRoom."""
        view = memoryview(data)
        if self.size + view.nbytes > self._most:
            raise NoRoom("it does not fit into the room that there is for the memory")
        if time.monotonic() > self._until:
            raise NoRoom("there was no time left to write it")
        try:
            self._put(view)
        except OSError as error:
            raise NoRoom(f"it could not be written: {error.strerror}") from error
        self._hash.update(view)
        return view.nbytes

    def _put(self, data: Any) -> None:
        with memoryview(data).cast("B") as view:
            done = 0
            while done < len(view):
                done += os.write(self._fd, view[done:])
        self.size += done
        self._unsynced += done
        if self._unsynced > _SYNC_BYTES:
            # Else the system takes it all at once, and then takes its time in `finish`.
            os.fdatasync(self._fd)
            self._unsynced = 0
        self._alive()

    def finish(self, index: Index) -> None:
        """Write the index, and make it a file; raises OSError."""
        where, said = self.size, json.dumps(asdict(index)).encode()
        try:
            self._put(said)
        except OSError:
            self._go_back(where)
            raise
        os.fsync(self._fd)
        place = where.to_bytes(8, "little") + len(said).to_bytes(8, "little")
        os.pwrite(self._fd, MAGIC + place + hashlib.sha256(said).digest(), 0)
        os.fsync(self._fd)


class Reader:
    """Reads a file that `Writer` has written, or anything else. Raises Unusable and OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        preamble = os.pread(fd, _PREAMBLE, 0)
        if preamble[: len(MAGIC)] != MAGIC:
            raise Unusable("its file is damaged, or of another version")
        where, size, digest = preamble[16:24], preamble[24:32], preamble[32:]
        offset, length = (int.from_bytes(number, "little") for number in (where, size))
        end = os.fstat(fd).st_size
        if not _PREAMBLE <= offset <= end or not 0 < length <= min(_MOST_INDEX_BYTES, end - offset):
            raise Unusable("its file is damaged")
        said = self._read(offset, length)
        if hashlib.sha256(said).digest() != digest:
            raise Unusable("its file is damaged")
        try:
            self.index = _index(json.loads(said))
        except (ValueError, TypeError, KeyError) as error:
            raise Unusable("its file is damaged") from error

    def _read(self, offset: int, size: int) -> bytearray:
        """So many bytes, into memory that is theirs alone."""
        if size > os.fstat(self._fd).st_size - offset:
            raise Unusable("it is cut short")
        found = bytearray(size)
        part = _Part(self._fd, offset, size)
        done = 0
        with memoryview(found) as view:
            while done < size:
                with view[done : done + _CHUNK] as piece:
                    got = part.readinto(piece)
                if not got:
                    raise Unusable("it is cut short")
                done += got
        return found

    def read(self, frame: Frame) -> tuple[IO[bytes], list[Any]]:
        """A frame's pickle, as a file to read it from, and its buffers, checked; raises Unusable.

        What is in the pickle is never in memory as a whole, beside what comes of it: that may be
        more than the session may use.
        """
        digest = hashlib.sha256()
        for done in range(0, frame.size, _CHUNK):
            digest.update(self._read(frame.offset + done, min(_CHUNK, frame.size - done)))
        end, buffers = frame.offset + frame.size, list[Any]()
        for offset, size, is_writable in frame.buffers:
            digest.update(bytes(offset - end))
            buffer = self._read(offset, size)
            digest.update(buffer)
            buffers.append(buffer if is_writable else memoryview(buffer).toreadonly())
            end = offset + size
        if digest.hexdigest() != frame.sha256:
            raise Unusable("it is damaged in the file")
        return io.BufferedReader(_Part(self._fd, frame.offset, frame.size)), buffers


class _Part(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        super().__init__()
        self._fd = fd
        self._offset = offset
        self._left = size

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, into: Any) -> int:
        """Read into a buffer; how much, 0 at the end."""
        with memoryview(into) as view, view[: self._left] as room:
            got = os.preadv(self._fd, [room], self._offset) if len(room) else 0
        self._offset += got
        self._left -= got
        return got


def _index(said: Any) -> Index:
    frames = [
        Frame(**{**frame, "buffers": [(int(at), int(size), bool(writable))
                                      for at, size, writable in frame["buffers"]]})
        for frame in said.pop("frames")
    ]  # fmt: skip
    left_out = [(str(name), str(reason)) for name, reason in said.pop("left_out")]
    return Index(**said, frames=frames, left_out=left_out)


def open_new(path: str) -> int:
    """An empty file in the place of whatever has this name; raises OSError."""
    Path(path).unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

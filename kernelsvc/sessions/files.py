"""What can be done with a session's files, whether it is awake, runs or sleeps.

The work is done in threads of this module's own: a workspace with a million files keeps nobody
waiting but those who ask for files.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from kernelsvc.errors import FieldProblem, InvalidRequest, SessionNotFound, ShuttingDown
from kernelsvc.files.archive import Packing
from kernelsvc.files.contents import OpenedFile, Precondition, delete_file, list_files, open_file
from kernelsvc.files.own import what_it_is
from kernelsvc.files.path import relative_path
from kernelsvc.files.quota import Space
from kernelsvc.files.upload import ArchiveUpload, FileUpload, Upload
from kernelsvc.files.workspace import Workspaces
from kernelsvc.models.caller import Caller
from kernelsvc.models.file import ArchiveUnpacked, FileInfo, FileList
from kernelsvc.models.limits import Limits
from kernelsvc.models.session import SessionRecord

T = TypeVar("T")
AnswerT = TypeVar("AnswerT", FileInfo, ArchiveUnpacked)

_THREADS = 8


class SessionFiles:
    """The files of all sessions. `find` gives a session's record, or raises SessionNotFound.

    `limits` hold for sessions that have none of their own.
    """

    def __init__(
        self,
        workspaces: Workspaces,
        limits: Limits,
        find: Callable[[Caller, str], Awaitable[SessionRecord]],
    ) -> None:
        self._workspaces = workspaces
        self._limits = limits
        self._find = find
        self._rooms: dict[str, Space] = {}
        self._incoming: set[Incoming[Any]] = set()
        self._background: set[asyncio.Future[None]] = set()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="files")
        self._closing = False

    # ---- what is asked for

    async def list(self, caller: Caller, session_id: str) -> FileList:
        """The session's regular files."""
        await self._enter(caller, session_id)
        return await self.do(self._list, session_id)

    def _list(self, session_id: str) -> FileList:
        try:
            with self._workspaces.directory(session_id) as workspace:
                return list_files(workspace)
        except OSError:
            # The code has taken its workspace away, or locked it.
            return FileList(files=[], count=0)

    async def open(self, caller: Caller, session_id: str, path: str) -> "Download":
        """A file, to read from; raises FileNotFound, NotARegularFile, FileNotAccessible."""
        await self._enter(caller, session_id)
        file = await self.do(open_file, self._workspaces, session_id, relative_path(path))
        return Download(file, self)

    async def delete(
        self, caller: Caller, session_id: str, path: str, condition: Precondition
    ) -> None:
        """Delete a file; raises as `open`, and PreconditionFailed."""
        wanted = _changeable(path)
        await self._enter(caller, session_id, to_write=True)
        await self.do(delete_file, self._workspaces, session_id, wanted, condition)

    async def put(
        self,
        caller: Caller,
        session_id: str,
        path: str,
        condition: Precondition,
        length: int | None,
    ) -> "Incoming[FileInfo]":
        """Begin to take a file of `length` bytes (None: not known) in the place of another or none.

        Raises what is known to be wrong already: WorkspaceFull, PreconditionFailed and others.
        """
        wanted = _changeable(path)
        limit = await self._enter(caller, session_id, to_write=True)
        room = self._room(session_id, limit)
        upload = FileUpload(self._workspaces, session_id, room, wanted, condition)
        return await self._begin(upload, room, length)

    async def put_archive(
        self, caller: Caller, session_id: str, length: int | None
    ) -> "Incoming[ArchiveUnpacked]":
        """Begin to take a tar.gz of `length` bytes (None: not known); raises WorkspaceFull."""
        limit = await self._enter(caller, session_id, to_write=True)
        room = self._room(session_id, limit)
        upload = ArchiveUpload(self._workspaces, session_id, room)
        return await self._begin(upload, room, length)

    async def archive(self, caller: Caller, session_id: str) -> "Outgoing":
        """The workspace as a tar.gz, to read from."""
        await self._enter(caller, session_id)
        try:
            return Outgoing(await self.do(Packing, self._workspaces, session_id), self)
        except OSError:
            # The code has taken its workspace away, or locked it.
            raise SessionNotFound(session_id) from None

    # ---- its own life

    def refuse_new(self) -> None:
        """Take nothing new from here on."""
        self._closing = True

    async def forget(self, session_id: str) -> None:
        """The session is being deleted: when this returns, nothing of its uploads is left."""
        room = self._rooms.pop(session_id, None)
        if room is None:
            return
        await self.do(room.close)
        for incoming in [other for other in self._incoming if other.room is room]:
            await self.do(incoming.upload.discard)

    async def close(self) -> None:
        """End every upload; they are answered as if their session had gone."""
        self.refuse_new()
        for session_id in list(self._rooms):
            await self.forget(session_id)
        if self._background:
            await asyncio.wait(set(self._background))
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---- inside

    async def _enter(self, caller: Caller, session_id: str, *, to_write: bool = False) -> int:
        """The most that the session's files may take, in bytes.

        The one place where a session is looked up on behalf of a caller.
        """
        if to_write and self._closing:
            raise ShuttingDown
        record = await self._find(caller, session_id)
        return record.limits.over(self._limits).disk or 0

    def _room(self, session_id: str, limit: int) -> Space:
        for other in [key for key, room in self._rooms.items() if room.is_unused]:
            del self._rooms[other]
        room = self._rooms.get(session_id)
        if room is None:
            measure = partial(self._workspaces.charged, session_id)
            room = self._rooms[session_id] = Space(measure, limit)
        return room

    async def _begin(self, upload: Upload, room: Space, length: int | None) -> "Incoming[Any]":
        incoming: Incoming[Any] = Incoming(upload, room, self)
        self._incoming.add(incoming)
        try:
            await self.do(upload.begin, length)
        except BaseException:
            incoming.discard()
            raise
        return incoming

    async def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something that blocks in a thread; raises ShuttingDown where it is too late."""
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        except RuntimeError:
            raise ShuttingDown from None
        return await running

    def do_later(self, work: Callable[[], None]) -> None:
        """Do something that blocks in the background; `close` waits for it."""
        done = asyncio.ensure_future(self._do_anyway(work))
        self._background.add(done)
        done.add_done_callback(self._done)

    async def _do_anyway(self, work: Callable[[], None]) -> None:
        try:
            await self.do(work)
        except ShuttingDown:
            work()

    def _done(self, done: "asyncio.Future[None]") -> None:
        self._background.discard(done)
        if not done.cancelled():
            done.exception()

    def left(self, incoming: "Incoming[Any]") -> None:
        """An upload has come to its end."""
        self._incoming.discard(incoming)


class Outgoing:
    """A workspace that goes out as a tar.gz."""

    def __init__(self, packing: Packing, files: SessionFiles) -> None:
        self._packing = packing
        self._files = files

    async def read(self) -> bytes:
        """The next piece; nothing at the end."""
        return await self._files.do(self._packing.read)

    def close(self) -> None:
        """Free it, in the background."""
        self._files.do_later(self._packing.close)


class Download:
    """A file that goes out; `size` and `etag` as it was when it was opened."""

    def __init__(self, file: OpenedFile, files: SessionFiles) -> None:
        self.size = file.size
        self.etag = file.etag
        self.modified = file.modified
        self._file = file
        self._files = files

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from there; none at the end."""
        return await self._files.do(self._file.read, offset, size)

    def close(self) -> None:
        """Free it, in the background."""
        self._files.do_later(self._file.close)


class Incoming(Generic[AnswerT]):
    """Something that comes in: `write` it, then `finish`; `discard` it in any case."""

    def __init__(self, upload: Any, room: Space, files: SessionFiles) -> None:
        self.upload = upload
        self.room = room
        self._files = files

    async def write(self, data: bytes) -> None:
        """Take a piece; raises WorkspaceFull, StorageFull, SessionNotFound."""
        await self._files.do(self.upload.write, data)

    async def finish(self) -> AnswerT:
        """Put it in its place; raises what is in the way."""
        answer: AnswerT = await self._files.do(self.upload.finish)
        return answer

    def discard(self) -> None:
        """Leave nothing of it, in the background; after `finish` too."""
        self._files.left(self)
        self._files.do_later(self.upload.discard)


def _changeable(path: str) -> bytes:
    wanted = relative_path(path)
    if (own := what_it_is(wanted)) is not None:
        name = wanted.split(b"/")[0].decode()
        raise InvalidRequest([FieldProblem("path", f"{name} {own}")])
    return wanted

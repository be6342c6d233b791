"""/api/sessions/{id}/files and /archive: raw bytes, both ways."""

import mimetypes
import re
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from kernelsvc import clock
from kernelsvc.api.base import ApiHandler, shortened
from kernelsvc.api.conditions import Unsatisfiable, precondition, span_of
from kernelsvc.api.operations import (
    THEN,
    Attached,
    Bytes,
    Content,
    Example,
    Parameter,
    operation,
)
from kernelsvc.api.transfers import TransferHandler
from kernelsvc.errors import (
    DirectoryNotEmpty,
    FieldProblem,
    FileNotAccessible,
    FileNotFound,
    InvalidRequest,
    KernelsvcError,
    NotARegularFile,
    PreconditionFailed,
    SessionNotFound,
    StorageFull,
    WorkspaceFull,
)
from kernelsvc.files.contents import Precondition
from kernelsvc.models.file import ArchiveUnpacked, FileDeleted, FileInfo, FileList
from kernelsvc.models.problem import Problem
from kernelsvc.sessions.files import Download, Incoming

_PIECE = 256 * 1024
_BINARY = "application/octet-stream"

_CONDITIONS = (
    Parameter("If-Match", "only where the file's ETag is one of these, or `*` for any"),
    Parameter("If-None-Match", "only where the file's ETag is none of these; `*` for no file"),
)
_TABLE = FileInfo(path="a.csv", size=13, uploaded=THEN, modified_at=THEN)
_RECURSIVE = Parameter(
    "recursive",
    "`true` deletes a directory with all that is in it",
    {"type": "boolean", "default": False},
)
_FINDING = (SessionNotFound, FileNotFound, NotARegularFile, FileNotAccessible)
_WRITING = (SessionNotFound, FileNotAccessible, WorkspaceFull, StorageFull)
_FILE: dict[HTTPStatus, Content] = {
    HTTPStatus.OK: Bytes("*/*"),
    HTTPStatus.PARTIAL_CONTENT: Bytes("*/*"),
}
_READING: dict[str, Any] = {
    "request_headers": (
        *_CONDITIONS,
        Parameter("Range", "one range of bytes, such as `bytes=0-99`"),
        Parameter("If-Range", "the range only where this is the file's ETag, else all of it"),
    ),
    "headers": {"ETag": "the file's state", "Last-Modified": "when the file was last changed"},
    "errors": (*_FINDING, PreconditionFailed),
    "refusals": (HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,),
    "may_be_unchanged": True,
}


class FilesHandler(ApiHandler):
    """/api/sessions/{id}/files"""

    @operation(
        FileList,
        errors=(SessionNotFound,),
        example=Example(
            answer=FileList(files=[_TABLE], count=1, total_count=1, total_size_bytes=13)
        ),
    )
    async def get(self, session_id: str) -> None:
        """List the session's files."""
        await self.answer_large(await self.service.files.list(self.caller, session_id))


class FileHandler(TransferHandler):
    """/api/sessions/{id}/files/{path}"""

    @operation(_FILE, **_READING)
    async def get(self, session_id: str, path: str) -> None:
        """Get a file, or a range of it.

        Of a path that ends with a slash, which is a directory's, the files below it are listed.
        """
        if is_directory(path):
            files = self.service.files
            await self.answer_large(await files.list_below(self.caller, session_id, path[:-1]))
            return
        file = await self.service.files.open(self.caller, session_id, path)
        try:
            await self._serve(file, path.rpartition("/")[2])
        finally:
            file.close()

    @operation({HTTPStatus.OK: None}, **_READING)
    async def head(self, session_id: str, path: str) -> None:
        """What GET would say, without the file."""
        await self.get(session_id, path)

    async def begin(self, length: int | None) -> Incoming[Any]:
        """Begin to take a file, or nothing for a directory."""
        session_id, path = self.path_args
        if is_directory(path):
            self._refuse_conditions()
            files = self.service.files
            return await files.make_directory(self.caller, session_id, path[:-1], length)
        return await self.service.files.put(
            self.caller, session_id, path, self._condition(), length
        )

    @operation(
        FileInfo,
        body=Bytes(),
        request_headers=_CONDITIONS,
        errors=(*_WRITING, NotARegularFile, PreconditionFailed),
        example=Example("n,square\n2,4\n", answer=_TABLE),
    )
    async def put(self, session_id: str, path: str) -> None:
        """Put a file in the place of another or none: 200 for both, as ERA's clients expect.

        A path that ends with a slash makes a directory; the body is empty then.
        """
        self.answer(await self.received())

    @operation(
        FileDeleted,
        query=(_RECURSIVE,),
        request_headers=_CONDITIONS,
        errors=(*_FINDING, DirectoryNotEmpty, PreconditionFailed),
        example=Example(answer=FileDeleted(path="a.csv", deleted_at=THEN)),
    )
    async def delete(self, session_id: str, path: str) -> None:
        """Delete a file, or by a path that ends with a slash a directory."""
        files, recursive = self.service.files, self._recursive()
        if is_directory(path):
            self._refuse_conditions()
            await files.delete_directory(self.caller, session_id, path[:-1], recursive=recursive)
        elif recursive:
            problem = "is for directories, whose path ends with /"
            raise InvalidRequest([FieldProblem("recursive", problem)])
        else:
            await files.delete(self.caller, session_id, path, self._condition())
        self.answer(FileDeleted(path=path, deleted_at=clock.now()))

    def _condition(self) -> Precondition:
        headers = self.request.headers
        return precondition(headers.get("If-Match"), headers.get("If-None-Match"))

    def _refuse_conditions(self) -> None:
        for name in ("If-Match", "If-None-Match"):
            if name in self.request.headers:
                raise InvalidRequest([FieldProblem(name, "cannot be given for a directory")])

    def _recursive(self) -> bool:
        given = self.get_query_argument("recursive", "false")
        if given not in ("true", "false"):
            problem = f"must be true or false (given: {shortened(given)})"
            raise InvalidRequest([FieldProblem("recursive", problem)])
        return given == "true"

    async def _serve(self, file: Download, name: str) -> None:
        condition = self._condition()
        Precondition(if_match=condition.if_match).check(file.etag)
        unwanted = condition.if_none_match
        if unwanted is not None and unwanted & {file.etag, "*"}:
            self.set_header("ETag", file.etag)
            self.set_status(HTTPStatus.NOT_MODIFIED)
            return
        headers = self.request.headers
        wanted = headers.get("Range")
        if self.request.method == "HEAD" or headers.get("If-Range", file.etag) != file.etag:
            wanted = None
        try:
            span = span_of(wanted, file.size)
        except Unsatisfiable:
            self._refuse_range(file)
            return
        start, end = span or (0, file.size)
        if span is not None:
            self.set_status(HTTPStatus.PARTIAL_CONTENT)
            self.set_header("Content-Range", f"bytes {start}-{end - 1}/{file.size}")
        self._describe(file, name)
        self.set_header("Content-Length", str(end - start))
        if self.request.method == "GET":
            await self._send_span(file, start, end)

    async def _send_span(self, file: Download, start: int, end: int) -> None:
        while start < end:
            try:
                data = await file.read(start, min(_PIECE, end - start))
            except (KernelsvcError, OSError):
                data = b""
            if not data:
                # The file has become shorter than was promised, or cannot be read any more.
                self.hang_up()
                return
            start += len(data)
            if not await self.send(data):
                return

    def _describe(self, file: Download, name: str) -> None:
        self.set_header("Content-Type", content_type(name))
        self.set_header("Content-Disposition", as_download(name))
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("ETag", file.etag)
        self.set_header("Last-Modified", file.modified)

    def _refuse_range(self, file: Download) -> None:
        self.set_header("Content-Range", f"bytes */{file.size}")
        problem = Problem(
            error=f"the file has {file.size} bytes; the range begins behind its end",
            code="range_not_satisfiable",
            request_id=self.request_id,
        )
        self.answer(problem, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


class ArchiveHandler(TransferHandler):
    """/api/sessions/{id}/archive"""

    @operation(Bytes("application/gzip"), errors=(SessionNotFound,))
    async def get(self, session_id: str) -> None:
        """Get the workspace as a tar.gz."""
        outgoing = await self.service.files.archive(self.caller, session_id)
        try:
            self.set_header("Content-Type", "application/gzip")
            self.set_header("Content-Disposition", as_download(f"{session_id}.tar.gz"))
            while True:
                try:
                    data = await outgoing.read()
                except (KernelsvcError, OSError):
                    # Too late to say so: the client must see that the archive is not complete.
                    self.hang_up()
                    return
                if not data or not await self.send(data):
                    return
        finally:
            outgoing.close()

    async def begin(self, length: int | None) -> Incoming[Any]:
        """Begin to take an archive."""
        return await self.service.files.put_archive(self.caller, self.path_args[0], length)

    @operation(
        ArchiveUnpacked,
        body=Bytes("application/gzip"),
        errors=(*_WRITING, NotARegularFile),
        example=Example(
            Attached("example.tar.gz"),
            answer=ArchiveUnpacked(file_count=1, total_size_bytes=13),
        ),
    )
    async def put(self, session_id: str) -> None:
        """Put the files of a tar.gz into the workspace."""
        self.answer(await self.received())


def is_directory(path: str) -> bool:
    """Whether it is meant as a directory's; it ends with a slash then."""
    return path.endswith("/")


def content_type(name: str) -> str:
    """What a file of that name usually holds; text is taken to be UTF-8."""
    kind, encoding = mimetypes.guess_type(name)
    if encoding or not kind:
        return _BINARY
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def as_download(name: str) -> str:
    """A Content-Disposition with which no browser shows what it gets as a page."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"

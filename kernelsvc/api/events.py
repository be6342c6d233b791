"""A run as server-sent events, as the HTML standard has them.

The answer begins with the run's first event, or a heartbeat where that is long in coming; what is
wrong before is answered as JSON. A client that takes what is sent too slowly keeps nobody waiting:
of what the service holds no more for it, it is told how much it missed.
"""

import asyncio
from typing import Any, Final

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from kernelsvc.api.base import ApiContext, ApiHandler
from kernelsvc.api.operations import Bytes, Parameter
from kernelsvc.api.problems import STATUS
from kernelsvc.errors import KernelsvcError
from kernelsvc.json_text import to_json
from kernelsvc.models.event import (
    ClearOutput,
    Display,
    Missed,
    Raised,
    Restarted,
    Result,
    Text,
    Told,
    UpdateDisplay,
)
from kernelsvc.models.problem import Problem
from kernelsvc.models.run import Run
from kernelsvc.sessions.stream import RunReader

EVENTS: Final = Bytes("text/event-stream")
LAST_SEEN: Final = Parameter(
    "Last-Event-ID",
    "the id of the last event that the client has: the answer begins behind it; empty for none",
    {"type": "string", "pattern": "^(run_[0-9a-f]+:o?[0-9]{1,15})?$"},
)
HEARTBEAT_SECONDS: Final = 15.0
_BATCH_BYTES: Final = 16 * 1024
_OUTPUT: Final = {"stdout", "stderr", "outputs", "text", "background"}


class EventsHandler(ApiHandler):
    """Base of the handlers that answer a run's events."""

    def initialize(self, context: ApiContext) -> None:
        """Called by Tornado before everything else."""
        super().initialize(context)
        self._reader: RunReader | None = None
        self._has_gone = False

    def compute_etag(self) -> str | None:
        """Called by Tornado, which would make one of the answer's text."""
        return None

    def on_connection_close(self) -> None:
        """Called by Tornado when the client has gone; the run goes on."""
        self._has_gone = True
        if self._reader is not None:
            self._reader.leave()
        super().on_connection_close()

    @property
    def last_seen(self) -> str | None:
        """What the client has already."""
        return self.request.headers.get("Last-Event-ID") or None

    async def send_events(self, reader: RunReader) -> None:
        """Answer what the reader reads, to the run's end.

        Raises what kept the run from having a result, where nothing was sent yet.
        """
        self._reader = reader
        if self._has_gone:
            return
        if reader.has_seen_all:
            # A browser's EventSource asks again until it is told that there is nothing more.
            self.set_status(204)
            self.finish()
            return
        done = asyncio.get_running_loop().create_future()
        self.context.answers.add(done)
        try:
            await self._send_all(reader)
        finally:
            self.context.answers.discard(done)
            done.set_result(None)

    async def _send_all(self, reader: RunReader) -> None:
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        # For nginx, which would wait for more.
        self.set_header("X-Accel-Buffering", "no")
        self.set_header("X-Run-Id", reader.run_id)
        if isinstance(connection := self.request.connection, HTTP1Connection):
            connection.stream.set_nodelay(True)
        while not (reader.has_left or reader.has_ended):
            if batch := reader.take(_BATCH_BYTES):
                lines = [as_sse(str(point), _told(event)) for point, event in batch]
                await self._send(reader, b"".join(lines))
            elif not await reader.wait(HEARTBEAT_SECONDS):
                await self._send(reader, b": still there\n\n")
        if not reader.has_left:
            await self._send(reader, await self._end(reader))
        if not reader.has_left:
            self.finish()

    async def _end(self, reader: RunReader) -> bytes:
        last = reader.point(reader.point().number + 1)
        try:
            run = await reader.result()
        except KernelsvcError as error:
            if not self._headers_written:
                raise
            problem = Problem(error=str(error), code=error.code, request_id=self.request_id)
            said = {"type": "problem", **problem.model_dump(exclude_none=True)}
            return as_sse(str(last), {**said, "status": STATUS[type(error)].value})
        return as_sse(str(last), _done(run))

    async def _send(self, reader: RunReader, data: bytes) -> None:
        """Send a piece and wait until it is on its way; the reader leaves where that fails."""
        try:
            async with asyncio.timeout(self.context.stall_timeout):
                self.write(data)
                await self.flush()
        except (StreamClosedError, TimeoutError):
            reader.leave()
            self._auto_finish = False
            if isinstance(connection := self.request.connection, HTTP1Connection):
                connection.close()


def as_sse(event_id: str, said: dict[str, Any]) -> bytes:
    """One event; its name is the `type` of its data."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        event_id.encode(),
        said["type"].encode(),
        to_json(said),
    )


def _done(run: Run) -> dict[str, Any]:
    return {"type": "done", **run.model_dump(mode="json", exclude=_OUTPUT)}


def _told(event: Told) -> dict[str, Any]:
    match event:
        case Text(name=name, text=text):
            return {"type": name, "content": text}
        case Display(data=data, metadata=metadata, display_id=display_id):
            said = {"type": "display", "data": data, "metadata": metadata}
            return said if display_id is None else {**said, "display_id": display_id}
        case UpdateDisplay(data=data, metadata=metadata, display_id=display_id):
            return {
                "type": "update_display",
                "data": data,
                "metadata": metadata,
                "display_id": display_id,
            }
        case Result(data=data, metadata=metadata, execution_count=count):
            return {
                "type": "result",
                "data": data,
                "metadata": metadata,
                "execution_count": count,
            }
        case Raised(ename=ename, evalue=evalue, traceback=traceback):
            return {
                "type": "error",
                "error": f"{ename}: {evalue}",
                "ename": ename,
                "evalue": evalue,
                "traceback": list(traceback),
            }
        case ClearOutput(wait=wait):
            return {"type": "clear_output", "wait": wait}
        case Missed(events=events, size=size):
            return {"type": "missed", "events": events, "bytes": size}
        case Restarted():
            return {"type": "restarted"}
        case _:
            raise AssertionError(f"{type(event).__name__} does not come out of a run")

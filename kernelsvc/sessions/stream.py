"""One run to many readers, each at its own pace and from its own point on.

A run that goes on or has ended lately is read event by event. Of an older one the outputs are
left, as its history keeps them: each is read as one event, numbered apart (o1, o2). A reader that
comes back for more with the number of an event that is held no more is told so by a `Restarted`,
and gets the outputs from the beginning.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from kernelsvc.errors import FieldProblem, InvalidRequest
from kernelsvc.models.event import Display, Event, Raised, Restarted, Result, Text, Told
from kernelsvc.models.output import DisplayOutput, ErrorOutput, Output, ResultOutput, StreamOutput
from kernelsvc.models.run import Run
from kernelsvc.outputs.log import EventLog
from kernelsvc.sessions.job import RunJob

_POINT = re.compile(r"(run_[0-9a-f]+):(o?)([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class Point:
    """Behind which event of which run; `kept` where that is an output of the history."""

    run_id: str
    number: int
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.run_id}:{'o' if self.kept else ''}{self.number}"

    @classmethod
    def of(cls, text: str) -> Self:
        """What `str` made; raises InvalidRequest, which names the header."""
        if (match := _POINT.fullmatch(text)) is None:
            problem = "must be the id of an event of a run's, such as run_0123abcd:5"
            raise InvalidRequest([FieldProblem("Last-Event-ID", problem)])
        return cls(match[1], int(match[3]), bool(match[2]))


class RunReader:
    """Reads a run's events from one point on; ended by `leave`, where it does not come so far."""

    def __init__(
        self, run_id: str, log: EventLog, ended: "asyncio.Future[Run]", begin: Point
    ) -> None:
        self._log = log
        self._ended = ended
        self._kept = begin.kept
        self._number = begin.number
        self._seen = log.position(begin.number)
        self.run_id = run_id
        self.has_left = False
        self._waiting: asyncio.Future[None] | None = None

    def point(self, number: int | None = None) -> Point:
        """Where it stands, or would with that event."""
        return Point(self.run_id, self._number if number is None else number, self._kept)

    @property
    def has_seen_all(self) -> bool:
        """Whether it began behind the run's very end."""
        return self._log.has_ended and self._number > self._log.last

    def take(self, max_bytes: int) -> list[tuple[Point, Told]]:
        """What is there now, up to about so many bytes, one event at least where there is any."""
        found: list[tuple[Point, Told]] = [
            (self.point(number), event)
            for number, event in self._log.after(self._number, self._seen, max_bytes)
        ]
        if found:
            self._number = found[-1][0].number
            self._seen = self._log.position(self._number)
        return found

    async def wait(self, seconds: float) -> bool:
        """Wait for more, the run's end or `leave`; False when the time has passed."""
        if self.has_left or self._log.last > self._number or self._log.has_ended:
            return True
        self._waiting = self._log.wait()
        done, _ = await asyncio.wait({self._waiting}, timeout=seconds)
        self._waiting.cancel()
        return bool(done)

    def leave(self) -> None:
        """Nobody reads any more."""
        self.has_left = True
        if self._waiting is not None:
            self._waiting.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended and all events have been taken."""
        return self._log.has_ended and self._number >= self._log.last

    async def result(self) -> Run:
        """The run, when it has ended; raises what kept it from having a result."""
        return await asyncio.shield(self._ended)


class _Restarting(RunReader):
    """Says that it begins anew before it does."""

    _has_said = False

    def take(self, max_bytes: int) -> list[tuple[Point, Told]]:
        """The same, behind a `Restarted`."""
        found = super().take(max_bytes)
        if not self._has_said:
            self._has_said = True
            return [(Point(self.run_id, 0, kept=True), Restarted()), *found]
        return found

    @property
    def has_ended(self) -> bool:
        """Not before it has said so."""
        return self._has_said and super().has_ended


def read_job(job: RunJob, begin: Point | None) -> RunReader:
    """A reader of a run that is held; raises InvalidRequest where the point is none of its."""
    begin = begin or Point(job.run_id, 0)
    if begin.kept or begin.number > job.events.last + job.events.has_ended:
        raise _no_such_event(begin)
    return RunReader(job.run_id, job.events, job.ended, begin)


def read_kept(run: Run, begin: Point | None) -> RunReader:
    """A reader of a run of the history."""
    log = EventLog(1 << 62, lambda event: None)
    for event in _events(run.outputs):
        log.add(event)
    log.end()
    ended: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
    ended.set_result(run)
    if begin is not None and not begin.kept and begin.number > 0:
        return _Restarting(run.run_id, log, ended, Point(run.run_id, 0, kept=True))
    begin = Point(run.run_id, begin.number if begin else 0, kept=True)
    if begin.number > log.last + 1:
        raise _no_such_event(begin)
    return RunReader(run.run_id, log, ended, begin)


def _no_such_event(point: Point) -> InvalidRequest:
    return InvalidRequest([FieldProblem("Last-Event-ID", f"there is no event {point} yet")])


def _events(outputs: list[Output]) -> Iterator[Event]:
    for output in outputs:
        match output:
            case StreamOutput(name=name, text=text):
                yield Text(name, text)
            case DisplayOutput(data=data, metadata=metadata):
                yield Display(data, metadata)
            case ResultOutput(data=data, metadata=metadata, execution_count=count):
                yield Result(data, metadata, count)
            case ErrorOutput(ename=ename, evalue=evalue, traceback=traceback):
                yield Raised(ename, evalue, tuple(traceback))

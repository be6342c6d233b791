"""Queries on runs."""

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError, StatementError
from sqlmodel import Session as Transaction
from sqlmodel import col

from kernelsvc import clock
from kernelsvc.errors import StorageFull
from kernelsvc.json_text import from_json, to_json
from kernelsvc.models.run import Run, RunSummary, new_run_id
from kernelsvc.store.accepted import forget_keys, seen_through
from kernelsvc.store.database import Database
from kernelsvc.store.journal import Journal
from kernelsvc.store.tables import IdempotencyRow, RunRow, SessionRow

_BEHIND_SECONDS = 0.5
_MOST_BEHIND_BYTES = 4 << 20
_LONG_LINE_BYTES = 256 << 10

# Made once, they cost a fifth of statements made each time.
_COUNT_RUNS = select(col(SessionRow.run_count)).where(col(SessionRow.id) == bindparam("of_session"))
_CHANGE_SESSION = (
    update(SessionRow)
    .where(col(SessionRow.id) == bindparam("of_session"))
    .values(
        run_count=bindparam("run_count"),
        last_run_at=bindparam("last_run_at"),
        data=bindparam("data"),
    )
)
_ADD_RUN = insert(RunRow)
_FORGET_RUNS = delete(RunRow).where(
    col(RunRow.session_id) == bindparam("of_session"),
    col(RunRow.number) <= bindparam("newest_to_forget"),
    # Whoever has the key of a run may ask for its result as long as the key holds.
    col(RunRow.id).not_in(select(col(IdempotencyRow.run_id))),
)

_LONGEST_SECONDS = 100 * 365 * 24 * 3600
_SUMMARY = (
    "status",
    "exit_code",
    "duration",
    "queued_at",
    "started_at",
    "text",
    "timed_out",
    "memory",
    "usage",
)

log = structlog.get_logger()


@dataclass(frozen=True)
class Finished:
    """A finished run, the session's `number`th, and its code.

    One that `was_pending` is so no more, and is to be sent to `callback_url`, where there is one.
    """

    run: Run
    number: int
    code: str
    was_pending: bool = False
    callback_url: str | None = None

    def line(self) -> bytes:
        """As JSON in one line."""
        return to_json([[self.number, self.code], self.run.model_dump(mode="json")])

    @classmethod
    def of(cls, line: bytes) -> "Finished":
        """What `line` made; raises ValueError."""
        (number, code), run = from_json(line)
        return cls(Run.model_validate(run), number, code)


class RunStore:
    """Each session's latest `keep` runs, of the last `keep_for` seconds.

    `on_delivery` is called when a run was stored that is to be sent somewhere.

    With a `journal` runs are written behind: what `finish` was called for survives the process, is
    seen by whoever reads the database through this service, and reaches the database in batches.
    """

    def __init__(
        self,
        database: Database,
        keep: int,
        journal: Path | None = None,
        keep_for: float = math.inf,
    ) -> None:
        self._database = database
        self._keep = keep
        self._keep_for = keep_for
        self.on_delivery: Callable[[], None] = _nobody
        self._journal = None if journal is None else Journal[Finished](journal)
        self._writing = threading.Lock()

    async def open(self) -> None:
        """Write what an earlier process had no time for."""
        if self._journal is not None:
            lines = await asyncio.to_thread(self._journal.open)
            left = [found for line in lines if (found := _left(line)) is not None]
            await self._database.run(lambda transaction: self._add(transaction, left))
            self._journal.clear()
            self._database.write_behind(self._write_behind)

    async def close(self) -> None:
        """Write what has gathered; where that fails, it stays in the journal for the next start."""
        if self._journal is not None:
            try:
                await self._database.run(lambda transaction: None)
            except SQLAlchemyError:
                log.exception("runs_left_in_the_journal")
            self._database.write_behind(lambda: None)
            self._journal.close()

    async def finish(
        self,
        run: Run,
        number: int,
        code: str,
        *,
        was_pending: bool = False,
        callback_url: str | None = None,
    ) -> None:
        """Store a finished run and what it changed of its session; nothing where that is gone.

        The oldest run falls out of the history. One that was accepted (`was_pending`) is seen
        through with that, and will be sent to `callback_url`. Raises StorageFull.
        """
        finished = Finished(run, number, code, was_pending, callback_url)
        if was_pending:
            await self._database.run(lambda transaction: self._add(transaction, [finished]))
            if callback_url is not None:
                self.on_delivery()
            return
        if self._journal is not None and self._journal.waiting_bytes < _MOST_BEHIND_BYTES:
            line = finished.line()
            if len(line) <= _LONG_LINE_BYTES:
                try:
                    self._journal.add(line, finished)
                except OSError as error:
                    raise StorageFull from error
                self._database.prompt(_BEHIND_SECONDS)
                return
        await self._database.run(lambda transaction: self._add(transaction, [finished]))

    def _write_behind(self) -> None:
        """Write what has gathered; called in a thread."""
        assert self._journal is not None
        with self._writing:
            if not (gathered := self._journal.take()):
                return
            try:
                self._database.commit(lambda transaction: self._add(transaction, gathered))
            except (OperationalError, InterfaceError):
                raise
            except StatementError:
                self._write_one_by_one(gathered)
            self._journal.done()

    def _write_one_by_one(self, gathered: list[Finished]) -> None:
        """Let a run that the database does not take keep none of the others out."""
        for finished in gathered:
            try:
                self._database.commit(partial(self._add, finished=[finished]))
            except (OperationalError, InterfaceError):
                raise
            except StatementError:
                log.exception("run_not_stored", run_id=finished.run.run_id)

    def _add(self, transaction: Transaction, finished: list[Finished]) -> None:
        """Add runs to the histories; those that are in them, or whose session is gone, are not."""
        of_session: dict[str, list[Finished]] = {}
        for each in finished:
            of_session.setdefault(each.run.session_id, []).append(each)
        connection = transaction.connection()
        for session_id, its in of_session.items():
            count = connection.scalar(_COUNT_RUNS, {"of_session": session_id})
            for each in its:
                if each.was_pending:
                    seen_through(connection, each.run, each.callback_url)
            # One that was pending comes once, and perhaps behind one that the journal held.
            new = [
                each
                for each in its
                if count is not None and (each.was_pending or each.number > count)
            ]
            if count is None or not new:
                continue
            last = max(new, key=lambda each: each.number)
            if last.number > count:
                connection.execute(
                    _CHANGE_SESSION,
                    {
                        "of_session": session_id,
                        "run_count": last.number,
                        "last_run_at": last.run.started_at or last.run.queued_at,
                        "data": last.run.data,
                    },
                )
            if all(each.run.started_at is None for each in new):
                _recount_memory(connection, session_id, count, last.number)
            newest_to_forget = last.number - self._keep
            rows = [_row(each) for each in new if each.number > newest_to_forget]
            connection.execute(_ADD_RUN, rows)
            oldest = {"of_session": session_id, "newest_to_forget": newest_to_forget}
            connection.execute(_FORGET_RUNS, oldest)

    async def get(self, session_id: str, run_id: str) -> Run | None:
        """A run of the session's history, or None."""

        def query(transaction: Transaction) -> Run | None:
            row = transaction.get(RunRow, run_id)
            if row is None or row.session_id != session_id or row.started_at < self._oldest():
                return None
            return Run.model_validate(row.result)

        return await self._database.run(query)

    async def latest(self, session_id: str) -> list[RunSummary]:
        """The history, newest first."""

        def query(transaction: Transaction) -> list[RunSummary]:
            wanted = select(RunRow).where(
                col(RunRow.session_id) == session_id, col(RunRow.started_at) >= self._oldest()
            )
            rows: Sequence[RunRow] = transaction.scalars(
                wanted.order_by(col(RunRow.number).desc()).limit(self._keep)
            ).all()
            return [_summary(row) for row in rows]

        return await self._database.run(query)

    async def forget_old(self) -> None:
        """Forget what is older than is kept: runs, and keys against repetition."""
        oldest = self._oldest()

        def query(transaction: Transaction) -> None:
            connection = transaction.connection()
            forget_keys(connection)
            connection.execute(delete(RunRow).where(col(RunRow.started_at) < oldest))

        await self._database.run(query)

    def _oldest(self) -> datetime:
        """When the oldest run that is kept was made at the earliest."""
        if self._keep_for > _LONGEST_SECONDS:
            return datetime.min.replace(tzinfo=UTC)
        return clock.now() - timedelta(seconds=self._keep_for)

    async def set_background(self, run_id: str, text: str) -> None:
        """Note what a run's threads and tasks have printed since it ended."""

        def query(transaction: Transaction) -> None:
            row = transaction.get(RunRow, run_id)
            if row is not None:
                statement = update(RunRow).where(col(RunRow.id) == run_id)
                result = {**row.result, "background": text}
                transaction.connection().execute(statement.values(result=result))

        await self._database.run(query)


def copy_history(transaction: Transaction, source: str, copy: str) -> None:
    """Give a new session the runs of another as its own, which have other ids there."""
    wanted = select(RunRow).where(col(RunRow.session_id) == source)
    for row in transaction.scalars(wanted).all():
        run_id = new_run_id()
        result = {**row.result, "run_id": run_id, "session_id": copy}
        own = {"id": run_id, "session_id": copy, "result": result}
        transaction.add(RunRow(**{**row.model_dump(), **own}))


def _nobody() -> None:
    """Who is told of a delivery until somebody is."""


def _recount_memory(connection: Connection, session_id: str, before: int, now: int) -> None:
    """Runs were counted that never began: what is kept of the memory is that of so many runs."""
    of_session = col(SessionRow.id) == session_id
    kept = connection.scalar(select(col(SessionRow.memory)).where(of_session))
    if kept and kept["run_count"] == before:
        memory = {**kept, "run_count": now}
        connection.execute(update(SessionRow).where(of_session).values(memory=memory))


def _left(line: bytes) -> Finished | None:
    """The run in a line of the journal; None for one that was not written to its end."""
    try:
        return Finished.of(line)
    except (ValueError, TypeError):
        log.warning("journal_line_unreadable", size=len(line))
        return None


def _row(finished: Finished) -> dict[str, Any]:
    run = finished.run
    return {
        "id": run.run_id,
        "session_id": run.session_id,
        "number": finished.number,
        "started_at": run.started_at or run.queued_at,
        "code": finished.code,
        "result": run.model_dump(mode="json"),
    }


def _summary(row: RunRow) -> RunSummary:
    told = {name: row.result[name] for name in _SUMMARY if name in row.result}
    return RunSummary(run_id=row.id, code=row.code, **told)

"""The database and the one way to talk to it: a function that gets a transaction, in a thread.

There is one thread: transactions run in the order they were asked for and never meet. What is known
here of a session and what is stored of it come out the same for that, whichever database it is.

SQLite has WAL with synchronous=NORMAL: what was committed survives a killed service; a machine that
loses power may lose the last moments before it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session as Transaction
from sqlmodel import create_engine, text

from kernelsvc.errors import FieldProblem, InvalidRequest, NotReady
from kernelsvc.json_text import from_json, to_json

T = TypeVar("T")

_BUSY_SECONDS = 10

log = structlog.get_logger()


class DatabaseUnusable(Exception):
    """The database cannot be opened: its URL, its file or its schema is not ours."""


class Database:
    """A database at `url`, opened by `open` and freed by `close`; raises DatabaseUnusable."""

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            self._engine = _engine(self._url)
        except (SQLAlchemyError, ImportError) as error:
            raise DatabaseUnusable(f"database_url cannot be used: {error}") from error
        self._write_behind: Callable[[], None] = _nothing
        self._timer: asyncio.TimerHandle | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="database")

    async def open(self) -> None:
        """Bring the schema to the newest version, making the database where there is none.

        Raises DatabaseUnusable.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._migrate)
        except (SQLAlchemyError, CommandError) as error:
            raise DatabaseUnusable(f"the database cannot be used: {error}") from error

    async def run(self, transaction: Callable[[Transaction], T]) -> T:
        """Run `transaction` in a thread and commit; what it raises rolls back, and is raised.

        Raises InvalidRequest where the database does not know what it is given: PostgreSQL has no
        NUL in its texts.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._transact, transaction)
        except DataError as error:
            problem = "holds what the database has no form for, such as a NUL character"
            raise InvalidRequest([FieldProblem("the request", problem)]) from error

    def write_behind(self, write: Callable[[], None]) -> None:
        """Have `write` called before every transaction, in its thread, and where `prompt` asks."""
        self._write_behind = write

    def prompt(self, seconds: float) -> None:
        """Write what is to be written behind so many seconds from now, or sooner."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._prompted)

    def _prompted(self) -> None:
        self._timer = None
        self._executor.submit(self._write_behind).add_done_callback(_report)

    def commit(self, transaction: Callable[[Transaction], T]) -> T:
        """Run `transaction` in the calling thread and commit; what it raises rolls back."""
        with Transaction(self._engine, expire_on_commit=False) as session, session.begin():
            return transaction(session)

    async def ping(self) -> None:
        """Raise NotReady unless the database answers."""
        try:
            await self.run(lambda transaction: transaction.connection().scalar(text("SELECT 1")))
        except SQLAlchemyError as error:
            raise NotReady("the database does not answer") from error

    async def close(self) -> None:
        """Finish what was asked for and close every connection."""
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.to_thread(self._executor.shutdown)
        self._engine.dispose()

    def _transact(self, transaction: Callable[[Transaction], T]) -> T:
        self._write_behind()
        return self.commit(transaction)

    def _migrate(self) -> None:
        with self._engine.begin() as connection:
            upgrade(connection)


def _nothing() -> None:
    """What is written behind until something is."""


def _report(written: Future[None]) -> None:
    if (error := written.exception()) is not None:
        # It is tried again before the next transaction, whoever asks for that.
        log.error("write_behind_failed", exc_info=error)


def upgrade(connection: Connection) -> None:
    """Apply the migrations that this database has not seen."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {
        # What a statement failed with may be logged; its parameters are users' code and data.
        "hide_parameters": True,
        "json_serializer": lambda plain: to_json(plain).decode(),
        "json_deserializer": from_json,
    }
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, **options)
    if url.database:
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments = {"timeout": _BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, connect_args=arguments, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()

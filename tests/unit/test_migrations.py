"""Migrations take a database with rows in it from each version to the next, and back."""

import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from kernelsvc.store import database as database_module
from kernelsvc.store.database import Database
from kernelsvc.store.runs import RunStore
from kernelsvc.store.sessions import SessionStore
from tests.unit.test_store import record, run_of


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'test.db'}"


def migrate(url, direction, version):
    """Bring the database to a version, with foreign keys checked as the service does."""
    engine = database_module._engine(database_module.make_url(url))
    config = Config()
    folder = Path(database_module.__file__).with_name("migrations")
    config.set_main_option("script_location", str(folder))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        direction(config, version)
    engine.dispose()


def at_version_1(url):
    """A database that version 0001 has made, with a session and a run."""
    migrate(url, command.upgrade, "0001")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(
            "INSERT INTO sessions VALUES ('s', 'python', 1, '2026-01-01 12:00:00',"
            " NULL, NULL, NULL, 'restart', '{}', '{}', '{}', 0, 1, 0)"
        )
        connection.execute(
            "INSERT INTO runs VALUES ('r', 's', 1, '2026-01-01 12:00:00', '1', ?)",
            (run_of().model_dump_json(),),
        )
    connection.close()


async def test_sessions_from_before_there_were_owners_are_those_of_a_service_without_keys(url):
    at_version_1(url)
    database = Database(url)
    await database.open()
    sessions = SessionStore(database)
    assert await sessions.get("s") == record()
    assert await sessions.ids("local") == ["s"]
    assert await sessions.counts() == {"local": 1}
    assert len(await RunStore(database, 5).latest("s")) == 1
    await database.close()


def test_the_way_back_keeps_sessions_and_runs(url):
    at_version_1(url)
    migrate(url, command.upgrade, "head")
    migrate(url, command.downgrade, "0001")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert "keys" not in tables
        assert connection.execute("SELECT id FROM sessions").fetchall() == [("s",)]
        assert connection.execute("SELECT id FROM runs").fetchall() == [("r",)]
    connection.close()


def test_up_and_down_and_up_again_is_the_same_schema(url, tmp_path):
    def schema():
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            rows = connection.execute(
                "SELECT name, sql FROM sqlite_master ORDER BY name"
            ).fetchall()
        connection.close()
        return rows

    migrate(url, command.upgrade, "head")
    first = schema()
    migrate(url, command.downgrade, "0001")
    migrate(url, command.upgrade, "head")
    assert schema() == first

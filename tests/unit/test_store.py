"""The store: what is put in comes out, and the migrations make what the tables say."""

import asyncio
import math
import resource
import signal
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel, create_engine

from kernelsvc import clock
from kernelsvc.errors import InvalidRequest, SessionExists, SessionNotFound, StorageFull
from kernelsvc.models.fields import OnTimeout
from kernelsvc.models.limits import Limits
from kernelsvc.models.memory import KeptMemory
from kernelsvc.models.run import Run
from kernelsvc.models.session import SessionRecord
from kernelsvc.models.setup import Setup, SetupResult, SetupStep
from kernelsvc.store import database as database_module
from kernelsvc.store import tables
from kernelsvc.store.accepted import Accepted, AcceptedStore
from kernelsvc.store.database import Database
from kernelsvc.store.deliveries import DeliveryStore
from kernelsvc.store.runs import RunStore
from kernelsvc.store.sessions import SessionStore

BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'deep' / 'test.db'}"


@pytest.fixture
def database(io_loop, url):
    database = Database(url)
    io_loop.run_sync(database.open)
    yield database
    io_loop.run_sync(database.close)


@pytest.fixture
def sessions(database):
    return SessionStore(database)


@pytest.fixture(params=["at once", "behind"])
def runs(io_loop, database, tmp_path, request):
    store = RunStore(database, 3, tmp_path / "journal" if request.param == "behind" else None)
    io_loop.run_sync(store.open)
    yield store
    io_loop.run_sync(store.close)


def record(session_id="s", *, age=0, **fields):
    created_at = BEGIN - timedelta(seconds=age)
    return SessionRecord(session_id, "python", persistent=True, created_at=created_at, **fields)


def run_of(session_id="s", number=1, **fields):
    return Run(
        run_id=f"run_{session_id}_{number}",
        session_id=session_id,
        status="completed",
        language="python",
        exit_code=0,
        started_at=BEGIN + timedelta(seconds=number),
        **fields,
    )


# ---- schema


async def test_the_migrations_make_exactly_the_tables_of_the_models(database, url):
    engine = create_engine(url)
    assert tables.SessionRow.metadata is SQLModel.metadata
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, SQLModel.metadata) == []
    engine.dispose()


async def test_opening_again_keeps_what_is_there(database, sessions, url):
    await sessions.add(record())
    again = Database(url)
    await again.open()
    assert await SessionStore(again).get("s") == record()
    await again.close()


async def test_sqlite_writes_ahead_and_checks_foreign_keys(database, url):
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await database.ping()


async def test_a_transaction_that_raises_changes_nothing(database, sessions):
    def half(transaction):
        transaction.add(tables.SessionRow(**vars_of(record())))
        transaction.flush()
        raise LookupError

    with pytest.raises(LookupError):
        await database.run(half)
    assert await sessions.ids() == []


def vars_of(made):
    return {
        "id": made.id,
        "language": made.language,
        "persistent": True,
        "created_at": made.created_at,
        "on_timeout": "restart",
        "env": {},
        "limits": {},
        "data": {},
        "labels": {},
        "allow_internet_access": False,
        "allow_public_access": True,
    }


# ---- sessions


FULL = record(
    last_run_at=BEGIN + timedelta(microseconds=1),
    default_timeout=0.5,
    sleep_after=math.inf,
    on_timeout=OnTimeout.INTERRUPT,
    snapshots=False,
    env={"A": 'it\'s\n"quoted"'},
    data={"ä💥": [1, 2.5, None, True, {"\ud800": "\udfff"}], "n": 10**40},
    metadata={"team": "x"},
    limits=Limits(memory="1GiB", cpu=0.5),
    allow_internet_access=True,
    allow_public_access=False,
    run_count=7,
    setup=Setup(pip=["a[b]>=1"], commands=["ls"], envs={"A": "b"}),
    setup_status="failed",
    setup_result=SetupResult(
        success=False,
        duration_ms=5,
        pip_packages=["a[b]>=1"],
        npm_packages=[],
        go_modules=[],
        commands_run=[],
        steps=[SetupStep(name="pip", command="pip install", status="failed", log="no\n")],
        error="because",
    ),
    memory=KeptMemory("token", 7, "it took too long"),
)


@pytest.mark.parametrize("made", [record(), FULL], ids=["bare", "full"])
async def test_a_session_comes_out_as_it_was_put_in(sessions, made):
    await sessions.add(made)
    assert await sessions.get("s") == made


async def test_setups_that_have_not_ended_are_found(sessions):
    setup = Setup(commands=["ls"])
    for age, status in enumerate((None, "pending", "completed", "failed", "pending")):
        made = None if status is None else setup
        await sessions.add(record(f"s{age}", age=age, setup=made, setup_status=status))
    assert [found.id for found in await sessions.with_pending_setup()] == ["s4", "s1"]
    await sessions.change("s4", {"setup_status": "completed"})
    assert [found.id for found in await sessions.with_pending_setup()] == ["s1"]


async def test_times_come_out_in_utc_whatever_zone_they_went_in(sessions):
    zone = timezone(timedelta(hours=7))
    await sessions.add(replace(record(), created_at=BEGIN.astimezone(zone)))
    found = await sessions.get("s")
    assert found is not None
    assert (found.created_at, found.created_at.tzinfo) == (BEGIN, UTC)


async def test_what_is_not_there_is_none(sessions):
    assert await sessions.get("nobody") is None
    assert not await sessions.change("nobody", {"run_count": 1})
    assert not await sessions.delete("nobody")


async def test_a_taken_id_is_refused_and_the_session_stays(sessions):
    await sessions.add(record(run_count=1))
    with pytest.raises(SessionExists):
        await sessions.add(record(run_count=2))
    assert await sessions.get("s") == record(run_count=1)


async def test_of_many_who_add_the_same_id_at_once_one_succeeds(sessions):
    results = await asyncio.gather(
        *(sessions.add(record(run_count=n)) for n in range(10)), return_exceptions=True
    )
    assert (
        sorted(type(result).__name__ for result in results) == ["NoneType"] + ["SessionExists"] * 9
    )


async def test_every_field_of_a_record_can_be_changed(sessions):
    await sessions.add(record())
    changes = {
        name: getattr(FULL, name)
        for name in FULL.__slots__
        if name not in ("id", "language", "persistent", "created_at")
    }
    for name, value in changes.items():
        assert await sessions.change("s", {name: value})
    assert await sessions.get("s") == FULL


async def test_ids_and_pages_are_oldest_first_and_ties_go_by_id(sessions):
    for session_id, age in (("c", 1), ("b", 0), ("a", 0), ("d", 2)):
        await sessions.add(record(session_id, age=age))
    assert await sessions.ids() == ["d", "c", "a", "b"]
    assert [found.id for found in await sessions.page(None, None)] == ["d", "c", "a", "b"]
    for position, after in enumerate("dcab", start=1):
        page = await sessions.page(after, None)
        assert [found.id for found in page] == list("dcab")[position:]


async def test_a_page_ends_at_its_size_and_the_next_goes_on(sessions, monkeypatch):
    monkeypatch.setattr("kernelsvc.store.sessions._PAGE", 2)
    for number in range(5):
        await sessions.add(record(f"s{number}", age=-number))
    pages, after = [], None
    while page := await sessions.page(after, None):
        pages.append([found.id for found in page])
        after = page[-1].id
    assert pages == [["s0", "s1"], ["s2", "s3"], ["s4"]]


async def test_a_page_behind_what_is_not_there_is_refused(sessions):
    with pytest.raises(InvalidRequest, match="cursor"):
        await sessions.page("nobody", None)


async def test_a_page_can_be_of_one_language(sessions):
    await sessions.add(record("a"))
    await sessions.add(replace(record("b"), language="other"))
    assert [found.id for found in await sessions.page(None, "python")] == ["a"]


async def test_a_deleted_session_takes_its_runs_along_and_no_others(sessions, runs):
    for session_id in ("a", "b"):
        await sessions.add(record(session_id))
        await runs.finish(run_of(session_id), 1, "1")
    assert await sessions.delete("a")
    assert await sessions.get("a") is None
    assert await runs.latest("a") == []
    assert await runs.get("a", "run_a_1") is None
    assert len(await runs.latest("b")) == 1


# ---- runs


async def test_a_run_comes_out_as_it_was_put_in_with_what_it_changed(sessions, runs):
    await sessions.add(record())
    run = run_of(stdout="Grüße 💥\n", data={"a": "\ud800"}, outputs=[], timed_out=True)
    await runs.finish(run, 1, "print(1)")
    assert await runs.get("s", run.run_id) == run
    assert await sessions.get("s") == record(run_count=1, data=run.data, last_run_at=run.started_at)
    (summary,) = await runs.latest("s")
    assert (summary.code, summary.run_id, summary.exit_code) == ("print(1)", run.run_id, 0)
    assert summary.started_at == run.started_at


async def test_a_run_of_a_session_that_is_gone_is_not_stored(sessions, runs):
    await runs.finish(run_of(), 1, "1")
    assert await runs.get("s", "run_s_1") is None


async def test_a_run_is_found_in_its_own_session_only(sessions, runs):
    await sessions.add(record("a"))
    await sessions.add(record("b"))
    await runs.finish(run_of("a"), 1, "1")
    assert await runs.get("b", "run_a_1") is None
    assert await runs.get("a", "run_a_1") is not None


async def test_the_latest_runs_are_kept_newest_first_and_older_ones_forgotten(sessions, runs):
    await sessions.add(record())
    for number in range(1, 6):
        await runs.finish(run_of(number=number), number, f"{number}")
    assert [summary.code for summary in await runs.latest("s")] == ["5", "4", "3"]
    assert await runs.get("s", "run_s_2") is None


@pytest.fixture
def killed(io_loop, url, tmp_path):
    """A service's store that was killed after `finish`: the database has heard of nothing."""
    database = Database(url)
    io_loop.run_sync(database.open)
    store = RunStore(database, 3, tmp_path / "journal")
    io_loop.run_sync(store.open)
    database.prompt = lambda seconds: None
    yield store
    store._journal.close()
    database.write_behind(lambda: None)
    io_loop.run_sync(database.close)


async def test_an_accepted_run_that_is_stored_behind_a_later_one_is_in_the_history(
    database, sessions, runs
):
    await sessions.add(record())
    accepted = AcceptedStore(database)
    pending = Accepted("run_s_1", "s", BEGIN, "1", "https://example.com/")
    await accepted.accept(pending, None)
    await runs.finish(run_of(number=2, data={"of": "the second"}), 2, "2")
    url = pending.callback_url
    await runs.finish(run_of(data={"of": "the first"}), 1, "1", was_pending=True, callback_url=url)
    assert [run.code for run in await runs.latest("s")] == ["2", "1"]
    found = await sessions.get("s")
    assert (found.run_count, found.data) == (2, {"of": "the second"})
    (delivery,) = await DeliveryStore(database).due(clock.now(), set(), 5)
    assert (delivery.run_id, delivery.url) == ("run_s_1", url)


async def test_accepted_runs_are_there_in_order_until_they_have_ended(database, sessions, runs):
    await sessions.add(record())
    accepted = AcceptedStore(database)
    later = BEGIN + timedelta(seconds=1)
    second = Accepted("run_a", "s", later, "2", "https://example.com/")
    first = Accepted("run_s_1", "s", BEGIN, "1", None)
    for each in (second, first):
        await accepted.accept(each, None)
    assert await accepted.unfulfilled() == [first, second]
    await runs.finish(run_of(), 1, "1", was_pending=True)
    assert await accepted.unfulfilled() == [second]


async def test_runs_that_never_began_leave_what_is_kept_of_the_memory(sessions, runs):
    for name, kept in (("a", None), ("b", KeptMemory("", 0, "why")), ("c", KeptMemory("t", 0))):
        await sessions.add(record(name, memory=kept))
        await runs.finish(never_begun(name, 1), 1, "")
        expected = kept and replace(kept, run_count=1)
        assert (await sessions.get(name)).memory == expected
    await runs.finish(run_of("c", 2), 2, "")
    await runs.finish(never_begun("c", 3), 3, "")
    # One had begun in between.
    assert (await sessions.get("c")).memory == expected


def never_begun(session_id, number):
    return run_of(session_id, number).model_copy(update={"started_at": None, "queued_at": BEGIN})


async def test_a_run_is_not_accepted_for_a_session_that_is_gone(database):
    accepted = AcceptedStore(database)
    with pytest.raises(SessionNotFound):
        await accepted.accept(Accepted("run_x", "gone", BEGIN, "1", None), None)


async def test_a_finished_run_survives_a_kill_and_is_written_once(
    database, sessions, killed, tmp_path
):
    await sessions.add(record())
    for number in (1, 2):
        run = run_of(number=number, data={"a": "\ud800"}, stdout="\u2028\n")
        await killed.finish(run, number, f"{number}\u2028")
    assert (await sessions.get("s")).run_count == 0
    (journal,) = (path for path in tmp_path.glob("journal.*") if path.stat().st_size)
    lines = journal.read_bytes()
    for left in (lines, lines, lines + b'[[3, "torn'):
        journal.write_bytes(left)
        after = RunStore(database, 3, tmp_path / "journal")
        await after.open()
        assert [found.code for found in await after.latest("s")] == ["2\u2028", "1\u2028"]
        assert await after.get("s", "run_s_2") == run
        assert await sessions.get("s") == record(
            run_count=2, data=run.data, last_run_at=run.started_at
        )
        assert not journal.read_bytes()
        await after.close()


async def test_what_is_written_behind_is_read_and_changed_in_order(io_loop, sessions, runs):
    await sessions.add(record())
    await runs.finish(run_of(data={"of": "the run"}), 1, "1")
    await sessions.change("s", {"data": {"of": "the caller"}})
    assert (await sessions.get("s")).data == {"of": "the caller"}
    await runs.finish(run_of(number=2, data={"of": "another"}), 2, "2")
    assert (await sessions.get("s")).data == {"of": "another"}
    await runs.finish(run_of(number=3), 3, "3")
    assert await sessions.delete("s")
    await sessions.add(record())
    assert await sessions.get("s") == record()
    assert await runs.latest("s") == []


async def test_a_run_that_the_database_refuses_keeps_out_no_other(database, sessions, tmp_path):
    store = RunStore(database, 3, tmp_path / "journal")
    await store.open()
    await sessions.add(record())
    await sessions.add(record("t"))
    await store.finish(run_of(), 1, "1")
    await store.finish(run_of("t").model_copy(update={"run_id": "run_s_1"}), 1, "the same id")
    await store.finish(run_of(number=2), 2, "2")
    assert [found.code for found in await store.latest("s")] == ["2", "1"]
    assert await store.latest("t") == []
    await store.close()


async def test_a_journal_on_a_full_disk_refuses_the_run_and_keeps_the_others(
    database, sessions, tmp_path
):
    store = RunStore(database, 3, tmp_path / "journal")
    await store.open()
    await sessions.add(record())
    await store.finish(run_of(), 1, "1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    room = sum(path.stat().st_size for path in tmp_path.glob("journal.*")) + 10
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        with pytest.raises(StorageFull):
            await store.finish(run_of(number=2), 2, "2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    await store.finish(run_of(number=3), 3, "3")
    assert [found.code for found in await store.latest("s")] == ["3", "1"]
    await store.close()


async def test_background_output_is_added_to_a_run_that_is_there(sessions, runs):
    await sessions.add(record())
    await runs.finish(run_of(stdout="x"), 1, "1")
    await runs.set_background("run_s_1", "late")
    await runs.set_background("run_nobody", "late")
    found = await runs.get("s", "run_s_1")
    assert found == run_of(stdout="x", background="late")


async def test_transactions_on_sqlite_run_one_after_the_other(database, sessions):
    await sessions.add(record())

    def add_one(transaction):
        row = transaction.get(tables.SessionRow, "s")
        assert row is not None
        row.run_count += 1
        transaction.add(row)

    await asyncio.gather(*(database.run(add_one) for _ in range(50)))
    found = await sessions.get("s")
    assert found is not None
    assert found.run_count == 50


async def test_an_older_database_is_brought_up_to_date(tmp_path):
    assert callable(database_module.upgrade)
    fresh = Database(f"sqlite:///{tmp_path / 'fresh.db'}")
    await fresh.open()
    await fresh.close()
    with sqlite3.connect(tmp_path / "fresh.db") as connection:
        versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    assert len(versions) == 1

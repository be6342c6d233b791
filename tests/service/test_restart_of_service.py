"""The service ends, by itself or by a crash, and starts again on the same directory."""

import asyncio
import fcntl
import os
import sqlite3
from contextlib import asynccontextmanager

import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from kernelsvc.errors import CannotStart
from tests.support.api import Api
from tests.support.inside import process_inside
from tests.support.named import of_this_process
from tests.support.process import ServiceProcess
from tests.support.waiting import eventually


@asynccontextmanager
async def service(settings):
    """A client of a service with those settings."""
    async with (
        serving(settings) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        yield Api(http)


async def history(api):
    return (await api.send("GET", "/api/sessions/s/runs")).json["runs"]


async def test_sessions_survive_with_all_that_they_have(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create(
            data={"a": 1},
            metadata={"m": [2]},
            env={"E": "x"},
            default_timeout=44,
            sleep_after="never",
            on_timeout="interrupt",
            allowPublicAccess=False,
        )
        run = await api.run("x = 1; open('file', 'w').write('content')")
        await api.send("PUT", "/api/sessions/s/code", {"code": "print('stored')"})
        before, runs = await api.session(), await history(api)
        assert before["state"] == "idle"
    async with service(settings) as api:
        assert await api.session() == {**before, "state": "sleeping"}
        assert (await api.send("GET", "/api/sessions")).json["count"] == 1
        assert await history(api) == runs
        found = await api.send("GET", f"/api/sessions/s/runs/{run['run_id']}")
        assert found.json == run
        again = await api.run("import os; print(x, open('file').read(), os.environ['E'])")
        assert again["stdout"] == "1 content x\n"
        assert again["data"] == {"a": 1}
        assert again["memory"] == "restored"
        assert again["memory_detail"] == "the session was asleep"
        stored = await api.send("POST", "/api/sessions/s/run", {})
        assert stored.json["stdout"] == "stored\n"
        assert (await api.run("1"))["memory"] == "kept"
        assert (await api.session())["run_count"] == 4
        assert len(await history(api)) == 4


async def test_what_was_answered_right_before_a_kill_is_there_afterwards(make_settings):
    settings = make_settings()
    with ServiceProcess(data_dir=settings.data_dir) as killed:
        async with AsyncClient(base_url=killed.url, timeout=30) as http:
            api = Api(http)
            await api.create()
            runs = [await api.run(f"print({number})", env={"N": "1"}) for number in range(5)]
            killed.kill()
    async with service(settings) as api:
        assert [run["run_id"] for run in await history(api)] == [
            run["run_id"] for run in reversed(runs)
        ]
        found = await api.send("GET", f"/api/sessions/s/runs/{runs[-1]['run_id']}")
        assert found.json == runs[-1]
        assert (await api.session())["run_count"] == 5


async def test_a_session_that_never_ran_has_no_memory_to_lose(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create(data={"a": 1})
    async with service(settings) as api:
        run = await api.run("1")
        assert (run["memory"], run["data"]) == ("kept", {"a": 1})


async def test_the_order_of_the_list_and_the_pages_survive(make_settings):
    settings = make_settings()
    names = ["c", "a", "b"]
    async with service(settings) as api:
        for name in names:
            await api.create(name, persistent=False)
        cursor = (await api.send("GET", "/api/sessions?limit=1")).json["next_cursor"]
    async with service(settings) as api:
        answer = (await api.send("GET", f"/api/sessions?cursor={cursor}")).json
        assert [session["id"] for session in answer["sessions"]] == names[1:]
        assert {session["state"] for session in answer["sessions"]} == {"idle"}


async def test_what_was_patched_and_not_yet_run_survives(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create(data={"a": 1})
        await api.run("1")
        await api.send("PATCH", "/api/sessions/s", {"data": {"b": 2}, "default_timeout": 9})
    async with service(settings) as api:
        session = await api.session()
        assert (session["data"], session["default_timeout"]) == ({"b": 2}, 9)
        run = await api.run("print(open('.session_data.json').read())")
        assert run["stdout"] == '{"b": 2}\n'


async def test_what_was_patched_after_a_restart_is_not_replaced_by_the_file_from_before(
    make_settings,
):
    settings = make_settings()
    async with service(settings) as api:
        await api.create(data={"a": 1})
        await api.run("1")
    async with service(settings) as api:
        await api.send("PATCH", "/api/sessions/s", {"data": {"b": 2}})
        copy = await api.send("POST", "/api/sessions/s/duplicate", {"new_id": "copy"})
        assert copy.json["data"] == {"b": 2}
        for what in ("wake", "sleep"):
            await api.send("POST", f"/api/sessions/s/{what}")
            assert (await api.session())["data"] == {"b": 2}
        run = await api.run("print(open('.session_data.json').read())")
        assert run["stdout"] == '{"b": 2}\n'


async def test_what_a_thread_wrote_into_the_data_after_its_run_survives(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create(data={"a": 1})
        await api.run(
            "import threading\n"
            "def late(): open('.session_data.json', 'w').write('{\"late\": true}')\n"
            "threading.Timer(0.3, late).start()"
        )
        path = settings.data_dir / "workspaces" / "s" / ".session_data.json"
        await eventually(lambda: "late" in path.read_text())
    async with service(settings) as api:
        assert (await api.run("1"))["data"] == {"late": True}


async def test_a_session_deleted_before_is_not_there_after(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create()
        await api.run("1")
        await api.send("DELETE", "/api/sessions/s")
    async with service(settings) as api:
        assert (await api.send("GET", "/api/sessions/s")).status == 404
        assert (await api.create())["run_count"] == 0


async def test_kernels_end_with_the_service_and_their_exit_handlers_run(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create()
        run = await api.run(
            "import atexit, os\n"
            "_ = atexit.register(lambda: open('left', 'w').write('word'))\n"
            "print(os.getpid(), os.getppid())"
        )
        processes = [process_inside(pid) for pid in run["stdout"].split()]
    assert not any(process.is_running() for process in processes)
    assert (settings.data_dir / "workspaces" / "s" / "left").read_text() == "word"


async def test_a_run_that_is_going_on_is_in_the_history_after_a_stop(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create()
        run = asyncio.create_task(
            api.send("POST", "/api/sessions/s/run", {"code": "print('on'); while_ = 1\nwhile 1: 1"})
        )

        async def is_running():
            return (await api.session())["state"] == "running"

        await eventually(is_running)
    await asyncio.gather(run, return_exceptions=True)
    async with service(settings) as api:
        (entry,) = await history(api)
        assert (entry["exit_code"], entry["status"]) == (130, "interrupted")
        session = await api.session()
        assert (session["state"], session["run_count"]) == ("sleeping", 1)


async def test_ten_sessions_end_with_the_service_and_leave_nothing(make_settings):
    settings = make_settings()
    before = of_this_process()
    async with service(settings) as api:
        await asyncio.gather(*(api.create(f"s{number}") for number in range(6)))
        # Some have a kernel, some are starting one just now.
    assert of_this_process() == before
    assert list(settings.runtime_dir.glob("*/")) == []


# ---- what a crash leaves


async def test_a_workspace_that_belongs_to_no_session_is_cleared_away_at_start(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create(persistent=False)
    workspaces = settings.data_dir / "workspaces"
    (workspaces / "orphan" / "deep").mkdir(parents=True)
    (workspaces / "orphan" / "deep" / "file").write_text("x")
    trash = settings.data_dir / "workspaces.trash"
    (trash / "half-gone").mkdir()
    (trash / "half-gone" / "file").write_text("x")
    async with service(settings) as api:
        assert [path.name for path in workspaces.iterdir()] == ["s"]
        assert list(trash.iterdir()) == []
        assert (await api.send("GET", "/api/sessions/orphan")).status == 404


async def test_a_session_whose_workspace_a_crash_took_works(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create(persistent=True, data={"a": 1})
    (settings.data_dir / "workspaces" / "s" / ".session_data.json").unlink(missing_ok=True)
    (settings.data_dir / "workspaces" / "s").rmdir()
    async with service(settings) as api:
        assert (await api.session())["file_count"] == 0
        answer = await api.send("POST", "/api/sessions/s/run", {"code": "print(1)"})
        assert answer.status == 200, answer
        assert answer.json["data"] == {"a": 1}


async def test_runtime_directories_of_dead_services_go_and_those_of_living_stay(make_settings):
    settings = make_settings()
    base = settings.runtime_dir
    stale, living = base / "0badc0de", base / "11111111"
    for directory in (stale, living):
        (directory / "host-1").mkdir(parents=True)
        (directory / "host-1" / "socket-ipc-1").touch()
        (directory / "lock").touch()
    with (living / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with service(settings) as api:
            assert not stale.exists()
            assert (living / "host-1" / "socket-ipc-1").exists()
            await api.create()
            assert (await api.run("print(1)"))["stdout"] == "1\n"
        assert [path.name for path in base.glob("*/")] == ["11111111"]
    async with service(settings):
        assert not living.exists()


async def test_a_runtime_directory_open_to_others_is_refused(make_settings):
    settings = make_settings()
    settings.runtime_dir.chmod(0o755)
    with pytest.raises(PermissionError, match=str(settings.runtime_dir)):
        async with serving(settings):
            pass
    settings.runtime_dir.chmod(0o700)


async def test_a_second_service_on_the_directory_is_refused_and_the_first_works_on(make_settings):
    settings = make_settings()
    async with service(settings) as api:
        await api.create()
        with pytest.raises(CannotStart, match=str(settings.data_dir)):
            async with serving(settings):
                pass
        assert (await api.run("print(1)"))["stdout"] == "1\n"
    async with service(settings) as api:
        assert (await api.session())["run_count"] == 1


async def test_two_services_with_directories_of_their_own_do_not_meet(make_settings, tmp_path):
    async with (
        service(make_settings()) as one,
        service(make_settings(data_dir=tmp_path / "other")) as two,
    ):
        await one.create(data={"n": 1})
        assert (await two.send("GET", "/api/sessions")).json["count"] == 0
        await two.create(data={"n": 2})
        runs = await asyncio.gather(one.run("print(1)"), two.run("print(2)"))
        assert [run["data"]["n"] for run in runs] == [1, 2]
        await two.send("DELETE", "/api/sessions")
        assert (await one.run("print(1)"))["memory"] == "kept"


async def test_files_of_the_service_are_for_its_user_alone(make_settings):
    settings = make_settings(data_dir=make_settings().data_dir / "new")
    old = os.umask(0)
    try:
        async with service(settings) as api:
            await api.create()
            await api.run("1")
    finally:
        os.umask(old)
    assert settings.data_dir.stat().st_mode & 0o077 == 0
    for path in settings.data_dir.iterdir():
        if path.is_dir():
            assert path.stat().st_mode & 0o077 == 0, path


async def test_a_database_that_is_none_is_an_error_and_is_left_as_it_is(make_settings):
    settings = make_settings()
    settings.data_dir.mkdir()
    path = settings.data_dir / "kernelsvc.db"
    path.write_bytes(b"this is no database, but somebody may want it" * 100)
    before = path.read_bytes()
    with pytest.raises(Exception, match="not a database"):
        async with serving(settings):
            pass
    assert path.read_bytes() == before


async def test_a_database_of_a_newer_version_is_refused(make_settings):
    settings = make_settings()
    async with serving(settings):
        pass
    with sqlite3.connect(settings.data_dir / "kernelsvc.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Exception, match="9999"):
        async with serving(settings):
            pass

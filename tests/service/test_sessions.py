"""Sessions as API.md fixes them: made, shown, changed, deleted, with nothing left."""

import asyncio
import json
import re
import sqlite3
from typing import Any

import pytest

from kernelsvc.models.limits import DEFAULT_LIMITS
from tests.support.inside import process_inside
from tests.support.problems import problem_of, raw
from tests.support.waiting import eventually

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# What the history shows of a run, as the run itself does.
SUMMARY = {
    *("run_id", "status", "exit_code", "duration", "queued_at", "started_at", "text"),
    *("timed_out", "memory", "usage"),
}


def rows(tmp_path):
    """How many sessions and runs the database holds."""
    with sqlite3.connect(tmp_path / "data" / "kernelsvc.db") as database:
        return tuple(
            database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("sessions", "runs")
        )


def workspaces(tmp_path):
    return sorted(path.name for path in (tmp_path / "data" / "workspaces").iterdir())


# ---- create, show


async def test_a_new_session_shows_every_field_of_the_contract(api):
    session = await api.create()
    assert session.pop("state") in ("starting", "idle")
    assert TIME.fullmatch(session.pop("created_at"))
    assert session == {
        "id": "s",
        "language": "python",
        "persistent": True,
        "state_detail": None,
        "last_run_at": None,
        "default_timeout": None,
        "sleep_after": 300.0,
        "on_timeout": "restart",
        "snapshots": True,
        "env": {},
        "limits": DEFAULT_LIMITS.model_dump(),
        "file_count": 0,
        "total_size_bytes": 0,
        "metadata": {},
        "data": {},
        "setup": None,
        "setup_status": None,
        "setup_result": None,
        "allowInternetAccess": False,
        "allowPublicAccess": True,
        "run_count": 0,
        "restored": [],
        "not_restored": [],
        "owner": "local",
    }


async def test_what_was_asked_for_is_what_is_shown(api):
    asked = {
        "persistent": False,
        "default_timeout": 120,
        "sleep_after": 600,
        "on_timeout": "interrupt",
        "env": {"A": 'it\'s "quoted"\nand more', "_b1": ""},
        "data": {"pending": [1, 2.5, None, {"ä": "💥"}]},
        "metadata": {"owner": "x", "n": 10**30},
        "allowInternetAccess": True,
        "allowPublicAccess": False,
    }
    created = await api.create(**asked)
    assert {name: created[name] for name in asked} == asked
    assert await api.session() == created


async def test_null_for_a_timeout_means_not_given(api):
    session = await api.create(persistent=False, default_timeout=None, sleep_after=None)
    assert session["default_timeout"] is None
    assert session["sleep_after"] == 300


@pytest.mark.parametrize("name", ["python", "py", "python3", "PYTHON", "Py"])
async def test_a_language_has_one_name_whatever_it_was_asked_by(api, name):
    assert (await api.create(language=name, persistent=False))["language"] == "python"


async def test_generated_ids_are_all_different_and_not_guessable(api):
    ids = {(await api.create(None, persistent=False))["id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(re.fullmatch(r"sess_[0-9a-f]{24,}", session_id) for session_id in ids)


async def test_a_session_becomes_idle_and_running_and_idle_again(api, tmp_path):
    await api.create()

    async def state():
        return (await api.session())["state"]

    async def is_idle():
        return await state() == "idle"

    async def is_running():
        return await state() == "running"

    await eventually(is_idle)
    run = asyncio.create_task(
        api.run("import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)")
    )
    await eventually(is_running)
    (tmp_path / "data" / "workspaces" / "s" / "go").touch()
    assert (await run)["exit_code"] == 0
    assert await state() == "idle"


async def test_a_run_leaves_its_time_and_count_in_the_session(api):
    await api.create()
    first = await api.run("1")
    second = await api.run("2")
    session = await api.session()
    assert session["run_count"] == 2
    assert session["last_run_at"] == second["started_at"] > first["started_at"]
    assert session["created_at"] < first["started_at"]


async def test_files_are_counted_without_the_data_file(api):
    await api.create(data={"a": 1})
    await api.run(
        "import os\n"
        "open('ten', 'w').write('x' * 10)\n"
        "os.makedirs('deep/er')\n"
        "open('deep/er/five', 'w').write('x' * 5)\n"
        "os.symlink('/etc/passwd', 'link')"
    )
    session = await api.session()
    assert session["file_count"] == 3
    assert session["total_size_bytes"] == 15 + len("/etc/passwd")


async def test_a_data_file_that_became_a_link_does_not_spoil_the_sizes(api):
    await api.create()
    await api.run(
        "import os\n"
        "open('ten', 'w').write('x' * 10)\n"
        "open('big', 'w').write('x' * 1000)\n"
        "if os.path.exists('.session_data.json'): os.remove('.session_data.json')\n"
        "os.symlink('big', '.session_data.json')"
    )
    session = await api.session()
    assert session["file_count"] == 2
    assert session["total_size_bytes"] == 1010


async def test_the_history_lists_runs_newest_first_and_keeps_their_results(api):
    await api.create()
    runs = [await api.run(f"print({number})") for number in range(3)]
    history = (await api.send("GET", "/api/sessions/s/runs")).json
    assert history["count"] == 3
    assert [run["code"] for run in history["runs"]] == ["print(2)", "print(1)", "print(0)"]
    for entry, run in zip(history["runs"], reversed(runs), strict=True):
        assert set(entry) == {"code", *SUMMARY}
        assert {name: entry[name] for name in SUMMARY} == {name: run[name] for name in SUMMARY}
        assert entry["started_at"] >= entry["queued_at"]
    for run in runs:
        answer = await api.send("GET", f"/api/sessions/s/runs/{run['run_id']}")
        assert answer.json == run


async def test_a_session_whose_code_removed_its_workspace_works_on(api):
    await api.create(data={"a": 1})
    await api.run("import os, shutil; x = 7; shutil.rmtree(os.getcwd())")
    answer = await raw(api, "POST", "/api/sessions/s/run", '{"code": "print(x)"}')
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == {"a": 1}
    assert (await api.send("POST", "/api/sessions/s/restart")).status == 200
    run = await api.run("print(open('.session_data.json').read())")
    assert json.loads(run["stdout"]) == {"a": 1}


@pytest.mark.parametrize("instead", ["open(place, 'w').close()", "os.symlink(outside, place)"])
async def test_a_session_whose_code_put_something_in_its_workspaces_place_works_on(
    api, tmp_path, instead
):
    outside = tmp_path / "outside"
    outside.mkdir()
    await api.create(data={"a": 1})
    await api.run(
        f"import os, shutil\nplace, outside = os.getcwd(), {str(outside)!r}\n"
        f"os.chdir('/')\nshutil.rmtree(place)\n{instead}"
    )
    answer = await raw(api, "POST", "/api/sessions/s/run", '{"code": "print(1)"}')
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == {"a": 1}
    assert (await api.send("POST", "/api/sessions/s/restart")).status == 200
    run = await api.run("print(open('.session_data.json').read())")
    assert json.loads(run["stdout"]) == {"a": 1}
    assert list(outside.iterdir()) == []


# ---- patch


async def test_patch_answers_the_whole_session_twice(api):
    await api.create(persistent=False)
    answer = await api.send("PATCH", "/api/sessions/s", {"default_timeout": 600})
    assert answer.status == 200
    assert answer.json.keys() == {"success", "id", "metadata", "session", "updated_at", "note"}
    assert answer.json["success"] is True
    assert answer.json["id"] == "s"
    assert TIME.fullmatch(answer.json["updated_at"])
    assert answer.json["session"] == answer.json["metadata"] == await api.session()
    assert answer.json["session"]["default_timeout"] == 600


PATCHES: list[tuple[str, Any, Any]] = [
    ("default_timeout", 600, None),
    ("sleep_after", 42, 300),
    ("sleep_after", "never", 300),
    ("on_timeout", "interrupt", "restart"),
    ("metadata", {"a": [1]}, {}),
    ("data", {"a": [1]}, {}),
    ("allowInternetAccess", True, False),
    ("allowPublicAccess", False, True),
]


@pytest.mark.parametrize(("name", "value", "cleared"), PATCHES)
async def test_patch_changes_what_is_given_and_null_clears_it(api, name, value, cleared):
    before = await api.create(persistent=False, env={"A": "1"})
    answer = await api.send("PATCH", "/api/sessions/s", {name: value})
    assert answer.status == 200
    assert await api.session() == {**before, name: value}
    answer = await raw(api, "PATCH", "/api/sessions/s", json.dumps({name: None}))
    assert answer.status_code == 200
    assert await api.session() == {**before, name: cleared}


async def test_an_empty_patch_changes_nothing(api):
    before = await api.create(persistent=False, default_timeout=5, metadata={"a": 1})
    assert (await api.send("PATCH", "/api/sessions/s", {})).status == 200
    assert await api.session() == before


async def test_patched_data_and_metadata_replace_the_old_as_a_whole(api):
    await api.create(persistent=False, data={"a": 1}, metadata={"a": 1})
    await api.send("PATCH", "/api/sessions/s", {"data": {"b": 2}, "metadata": {"b": 2}})
    session = await api.session()
    assert (session["data"], session["metadata"]) == ({"b": 2}, {"b": 2})


async def test_a_patched_network_applies_at_the_next_kernel_and_the_answer_says_so(api):
    await api.create()
    await api.send("POST", "/api/sessions/s/wake")
    answer = await api.send("PATCH", "/api/sessions/s", {"allowInternetAccess": True})
    assert "next starts a kernel" in answer.json["note"]
    again = await api.send("PATCH", "/api/sessions/s", {"allowInternetAccess": True})
    assert again.json["note"] is None


async def test_patches_of_different_fields_at_once_all_hold(api):
    await api.create(persistent=False)
    changes = [{name: value} for name, value, _ in PATCHES if value != "never"]
    answers = await asyncio.gather(
        *(api.send("PATCH", "/api/sessions/s", change) for change in changes)
    )
    assert {answer.status for answer in answers} == {200}
    session = await api.session()
    for change in changes:
        assert session | change == session


# ---- delete


async def test_delete_leaves_no_process_no_file_and_no_row(api, tmp_path):
    await api.create()
    run = await api.run(
        "import os, subprocess\n"
        "open('file', 'w').write('x')\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(os.getpid(), os.getppid(), child.pid)"
    )
    processes = [process_inside(pid) for pid in run["stdout"].split()]
    assert all(process.is_running() for process in processes)
    # Who reads finds the run written, whoever looks into the database by himself perhaps not yet.
    assert (await api.send("GET", "/api/sessions/s/runs")).json["count"] == 1
    assert rows(tmp_path) == (1, 1)
    await api.run("2")
    answer = await api.send("DELETE", "/api/sessions/s")
    assert answer.status == 200
    assert answer.json.keys() == {"success", "id", "deleted_at"}
    assert (answer.json["success"], answer.json["id"]) == (True, "s")
    assert TIME.fullmatch(answer.json["deleted_at"])
    assert not any(process.is_running() for process in processes)
    assert workspaces(tmp_path) == []
    assert list((tmp_path / "data" / "workspaces.trash").iterdir()) == []
    assert rows(tmp_path) == (0, 0)
    journals = list((tmp_path / "data").glob("runs.journal.*"))
    assert [journal.read_bytes() for journal in journals] == [b"", b""]
    assert (await api.send("GET", "/api/sessions/s")).status == 404
    assert (await api.send("GET", "/api/sessions")).json["count"] == 0


async def test_delete_during_the_start_of_the_kernel_leaves_nothing(api, tmp_path):
    await api.create()
    assert (await api.send("DELETE", "/api/sessions/s")).status == 200
    assert workspaces(tmp_path) == []
    assert rows(tmp_path) == (0, 0)


async def test_a_session_whose_kernel_does_not_come_to_be_ready_is_deleted_all_the_same(
    api, tmp_path
):
    await api.create(limits={"cpu": 0.001})
    async with asyncio.timeout(30):
        assert (await api.send("DELETE", "/api/sessions/s")).status == 200
    assert workspaces(tmp_path) == []
    assert rows(tmp_path) == (0, 0)


async def test_delete_twice_at_once_answers_one_of_them_with_404(api):
    await api.create()
    await api.run("1")
    answers = await asyncio.gather(*(raw(api, "DELETE", "/api/sessions/s", "") for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404, 404]


async def test_queued_runs_of_a_deleted_session_are_404_and_leave_nothing(api, tmp_path):
    await api.create()
    first = asyncio.create_task(api.run("print('on', flush=True); import time; time.sleep(60)"))

    async def is_running():
        return (await api.session())["state"] == "running"

    await eventually(is_running)
    queued = asyncio.create_task(raw(api, "POST", "/api/sessions/s/run", '{"code": "2"}'))
    await eventually(is_running)
    await api.send("DELETE", "/api/sessions/s")
    assert (await first)["exit_code"] == 130
    problem_of(await queued, 404, "session_not_found")
    assert rows(tmp_path) == (0, 0)


async def test_a_deleted_id_can_be_had_again_and_starts_empty(api, tmp_path):
    for number in range(2):
        session = await api.create(data={"number": number})
        assert session["run_count"] == 0
        run = await api.run("import os; print(os.listdir(), 'x' in globals()); x = 1")
        assert run["stdout"] == "['.session_data.json'] False\n"
        assert run["memory"] == "kept"
        assert run["data"] == {"number": number}
        await api.run("open('left', 'w').close()")
        await api.send("DELETE", "/api/sessions/s")
    assert workspaces(tmp_path) == []


async def test_delete_and_create_of_one_id_at_once_leave_a_session_that_works(api):
    for _ in range(3):
        await api.create(persistent=False)
        body = json.dumps({"language": "python", "session_id": "s", "persistent": False})

        async def create(body: str = body) -> bool:
            return (await raw(api, "POST", "/api/sessions", body)).status_code == 201

        await asyncio.gather(api.send("DELETE", "/api/sessions/s"), eventually(create))
        answer = await raw(api, "POST", "/api/sessions/s/run", '{"code": "print(1)"}')
        assert answer.status_code == 200, answer.text
        assert (await api.send("DELETE", "/api/sessions/s")).status == 200


async def test_delete_all_ends_every_session_and_names_them(api, tmp_path):
    await api.create("a")
    await api.create("b.c:d")
    await api.create("e", persistent=False)
    kernel = process_inside((await api.run("import os; os.getpid()", "a"))["text"])
    answer = await api.send("DELETE", "/api/sessions")
    assert answer.status == 200
    assert answer.json.keys() == {"success", "deleted_count", "deleted_sessions", "deleted_at"}
    assert answer.json["success"] is True
    assert answer.json["deleted_count"] == 3
    assert sorted(answer.json["deleted_sessions"]) == ["a", "b.c:d", "e"]
    assert TIME.fullmatch(answer.json["deleted_at"])
    assert not kernel.is_running()
    assert workspaces(tmp_path) == []
    assert rows(tmp_path) == (0, 0)


async def test_delete_all_of_nothing_deletes_nothing(api):
    answer = await api.send("DELETE", "/api/sessions")
    assert (answer.json["deleted_count"], answer.json["deleted_sessions"]) == (0, [])


# ---- ids


@pytest.mark.parametrize("session_id", ["user:42:chat", "a.b..c", "x" * 128])
async def test_every_allowed_id_works_from_create_to_delete(api, tmp_path, session_id):
    await api.create(session_id)
    run = await api.run("import os; print(os.environ['ERA_SESSION_ID'])", session_id)
    assert run["stdout"].strip() == session_id
    assert workspaces(tmp_path) == [session_id]
    quoted = session_id.replace(":", "%3A")
    assert (await api.session(quoted))["id"] == session_id
    assert (await api.send("DELETE", f"/api/sessions/{quoted}")).status == 200
    assert workspaces(tmp_path) == []


async def test_ids_that_differ_in_case_only_are_two_sessions(api):
    await api.create("a", persistent=False, data={"n": 1})
    await api.create("A", persistent=False, data={"n": 2})
    assert [(await api.session(name))["data"]["n"] for name in "aA"] == [1, 2]

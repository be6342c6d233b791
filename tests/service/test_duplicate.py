"""POST /api/sessions/{id}/duplicate: a session that has what another one has."""

import asyncio
import json
import os

from httpx import AsyncClient

from kernelsvc.app import serving
from kernelsvc.sessions.duplicate import Duplicator
from tests.support.api import Api
from tests.support.files import get, paths, put
from tests.support.problems import everything, fields_of, problem_of, raw
from tests.support.waiting import eventually

PATH = "/api/sessions/s/duplicate"
SETTINGS = {
    "default_timeout": 44,
    "sleep_after": 3600,
    "on_timeout": "interrupt",
    "env": {"E": "x"},
    "limits": {"disk": "1MiB"},
    "metadata": {"m": [2]},
    "allowPublicAccess": False,
}
ITS_OWN = {"id", "created_at", "last_run_at", "run_count", "state", "source_session_id"}


SLOW_TO_SAVE = """
import os, time
class Slow:
    def __reduce__(self):
        open("saving", "w").close()
        while not os.path.exists("go"): time.sleep(0.01)
        return Slow, ()
x, slow = 1, Slow()
"""


async def test_a_run_that_comes_meanwhile_does_not_cost_the_copy_its_memory(api):
    await api.create()
    await api.run(SLOW_TO_SAVE)
    copying = asyncio.create_task(api.send("POST", PATH, {"new_id": "copy"}))

    async def is_saving():
        return "saving" in await paths(api)

    await eventually(is_saving)
    body = {"code": "x = 2", "background": True}
    assert (await api.send("POST", "/api/sessions/s/run", body)).status == 202
    await put(api, "go", b"")
    assert (await copying).status == 201
    run = await api.run("x", "copy")
    assert (run["text"], run["memory"]) == ("1", "restored"), run
    assert (await api.run("x"))["text"] == "2"


async def test_a_copy_has_files_data_settings_and_code_and_is_independent_from_then_on(api):
    await api.create(data={"n": 1}, **SETTINGS)
    await api.send("PUT", "/api/sessions/s/code", {"code": "print(open('f').read())"})
    await api.run(
        "import json, os, pathlib\n"
        "json.dump({'n': 2}, open('.session_data.json', 'w'))\n"
        "x = 1\n"
        "def total(): return x + 1\n"
        "held = open('f', 'w')\n"
        "pathlib.Path('d').mkdir()\n"
        "pathlib.Path('f').write_text('content')\n"
        "os.symlink('../f', 'd/link')"
    )
    source = await api.session()

    made = await api.send("POST", PATH, {"new_id": "copy"})
    assert (made.status, made.headers["Location"]) == (201, "/api/sessions/copy")
    assert made.json["source_session_id"] == "s"
    assert (made.json["last_run_at"], made.json["run_count"]) == (None, 0)
    assert made.json["data"] == {"n": 2}
    for name in source.keys() - ITS_OWN:
        assert made.json[name] == source[name], name

    copy = "/api/sessions/copy"
    run = await api.run(
        "import json, os\n"
        "print(x, total(), open('d/link').read(), os.environ['E'])\n"
        "print(json.load(open('.session_data.json')))\n"
        "open('f', 'w').write('changed')\n"
        "x = 5",
        "copy",
    )
    assert run["stdout"] == "1 2 content x\n{'n': 2}\n"
    detail = "the session is a copy of s; not restored: held (an open file)"
    assert (run["memory"], run["memory_detail"]) == ("restored", detail)
    assert (await api.run("total()", "copy"))["text"] == "6"
    assert (await api.send("POST", f"{copy}/run", {})).json["stdout"] == "changed\n"
    assert (await api.send("POST", "/api/sessions/s/run", {})).json["stdout"] == "content\n"
    run = await api.run("x, held.closed")
    assert (run["text"], run["memory"]) == ("(1, False)", "kept")
    await api.send("DELETE", "/api/sessions/s")
    assert (await api.send("GET", f"{copy}/code")).json["code"] == "print(open('f').read())"
    assert (await get(api, "f", "copy")).text == "changed"


async def test_a_copy_made_during_a_run_is_of_what_it_left_and_may_have_other_data(api, server):
    await api.create(data={"n": 1})
    running = asyncio.ensure_future(
        api.run("print(1)\nimport os, time\nwhile not os.path.exists('go'): time.sleep(.01)\n"
                "open('late', 'w').write('late')")
    )  # fmt: skip
    await api.until_running()
    copying = asyncio.ensure_future(api.send("POST", PATH, {"id": "copy", "data": {"m": 3}}))
    turns = server.service._live["s"]._turns
    await eventually(lambda: turns.waiting == 1)
    taken = await api.send("POST", "/api/sessions", {"language": "python", "session_id": "copy"})
    assert (taken.status, taken.json["code"]) == (409, "session_exists")
    await put(api, "go", b"")
    made = await copying
    await running
    assert made.json["data"] == {"m": 3}
    assert set(await paths(api, "copy")) == {"go", "late"}
    run = await api.run("print(open('.session_data.json').read())", "copy")
    assert json.loads(run["stdout"]) == {"m": 3}


async def test_a_sleeping_session_is_copied_without_being_woken_and_gives_a_free_id(api):
    await api.create()
    await api.run("open('f', 'w').write('content')")
    await api.send("POST", "/api/sessions/s/sleep")
    made = (await raw(api, "POST", PATH, "")).json()
    assert made["id"].startswith("sess_")
    assert (await get(api, "f", made["id"])).text == "content"
    assert (await api.session())["state"] == "sleeping"


async def test_a_copy_that_may_not_be_is_refused_and_leaves_nothing(make_settings):
    settings = make_settings(max_sessions=2)
    async with (
        serving(settings) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        api = Api(http)
        await api.create(persistent=False, limits={"disk": "1MiB"})
        for body, field in {
            '{"new_id": "a b"}': "new_id",
            '{"id": 5}': "id",
            '{"new_id": "a", "id": "b"}': "body",
            '{"data": 5}': "data",
            '{"name": "a"}': "name",
        }.items():
            problem = problem_of(await raw(api, "POST", PATH, body), 400, "invalid_request")
            assert fields_of(problem) == [field]
        before = await everything(api)
        answer = await raw(api, "POST", PATH, '{"id": "s"}')
        problem_of(answer, 409, "session_exists")
        answer = await raw(api, "POST", "/api/sessions/t/duplicate", "{}")
        problem_of(answer, 404, "session_not_found")
        # More than its limit, as code may write for a moment.
        (settings.data_dir / "workspaces/s/large").write_bytes(bytes(1 << 20 | 1))
        answer = await raw(api, "POST", PATH, '{"id": "copy"}')
        problem_of(answer, 413, "workspace_full")
        (settings.data_dir / "workspaces/s/large").unlink()
        assert await everything(api) == before
        assert os.listdir(settings.data_dir / "workspaces") == ["s"]
        assert os.listdir(settings.data_dir / "workspaces.staging") == []

        assert (await raw(api, "POST", PATH, '{"id": "copy"}')).status_code == 201
        problem_of(await raw(api, "POST", PATH, "{}"), 429, "too_many_sessions")


async def test_a_copy_that_breaks_off_leaves_nothing_even_where_the_service_is_killed(
    make_settings, monkeypatch
):
    """The moment before the row is stored, and no chance to clear away."""
    settings = make_settings()
    placed = asyncio.Event()

    async def crash(self, record, copy_of=None, **options):
        placed.set()
        raise asyncio.CancelledError

    async with (
        serving(settings) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        api = Api(http)
        await api.create(persistent=False)
        await put(api, "f", b"content")
        monkeypatch.setattr(type(server.service._sessions), "add", crash)
        monkeypatch.setattr(Duplicator, "_clear_away", lambda self, copy, new_id: None)
        copying = asyncio.ensure_future(raw(api, "POST", PATH, '{"id": "copy"}'))
        await placed.wait()
        assert (settings.data_dir / "workspaces/copy/f").read_bytes() == b"content"
        monkeypatch.undo()
        await copying
    async with serving(settings):
        assert os.listdir(settings.data_dir / "workspaces") == ["s"]


async def test_a_copy_sleeps_before_its_first_run_and_has_its_memory_all_the_same(api):
    await api.create()
    await api.run("x = 1")
    await api.send("POST", PATH, {"new_id": "copy"})
    assert (await api.send("POST", "/api/sessions/copy/wake")).json["restored"] == ["x"]
    assert (await api.send("POST", "/api/sessions/copy/sleep")).status == 200
    run = await api.run("x", "copy")
    assert (run["text"], run["memory"]) == ("1", "restored")


async def test_a_copy_of_a_session_that_sleeps_has_its_memory(api):
    await api.create()
    await api.run("x = 1")
    await api.send("POST", "/api/sessions/s/sleep")
    await api.send("POST", PATH, {"new_id": "copy"})
    assert (await api.run("x", "copy"))["text"] == "1"
    run = await api.run("x")
    assert (run["text"], run["memory"]) == ("1", "restored")


async def test_where_memory_is_not_kept_a_copy_says_that_it_has_none(make_settings):
    async with (
        serving(make_settings(sleep_keeps_memory=False)) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        api = Api(http)
        await api.create()
        await api.run("x = 1")
        await api.send("POST", PATH, {"new_id": "copy"})
        run = await api.run("'x' in globals()", "copy")
        assert (run["text"], run["memory"]) == ("False", "lost")
        assert run["memory_detail"] == "the session is a copy of s"

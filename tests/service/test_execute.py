"""POST /api/execute: code in a kernel of its own; whatever happens, nothing of it is left."""

import asyncio
import base64
import json
from contextlib import asynccontextmanager

import psutil
import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.keys import clients, make_key
from tests.support.leaks import holdings
from tests.support.problems import fields_of, problem_of, raw
from tests.support.process import ServiceProcess
from tests.support.waiting import eventually

ENDLESS = "while True: pass"
# Waits until somebody puts a file there; says so by another.
WAITING = (
    "import os, time\nopen('waits', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)"
)


async def execute(api, code, **fields):
    """Run code; asserts that there is a result."""
    answer = await api.send(
        "POST", "/api/execute", {"language": "python", "code": code, "timeout": 20, **fields}
    )
    assert answer.status == 200, answer
    return answer.json


def workspaces(settings):
    return settings.data_dir / "workspaces"


async def until_waiting(directory):
    """The workspace of the one run that goes on."""
    return (await eventually(lambda: next(directory.glob("*/waits"), None))).parent


@asynccontextmanager
async def leaving_nothing(server, settings):
    """What the service holds is the same afterwards, or soon; its connections are the client's."""

    def held():
        now = holdings(workspaces(settings), settings.runtime_dir)
        return now.processes, now.files, len(server.service.one_offs.live)

    before = held()
    yield
    await eventually(lambda: held() == before)


@pytest.fixture
def settings(make_settings):
    return make_settings()


async def test_code_finds_its_files_and_environment_and_input_and_leaves_nothing(settings):
    async with serving(settings) as server, AsyncClient(base_url=server.url, timeout=60) as http:
        api = Api(http)
        await execute(api, "1")
        before = holdings(workspaces(settings), settings.runtime_dir)
        code = (
            "import os\nfrom package.module import x\n"
            "print(x, open('data/deep/bytes', 'rb').read(), os.environ['A'], input(), end='')\n"
            "os.stat('package/module.py').st_mode & 0o777, os.path.exists('.session_data.json')"
        )
        files = {
            "package/module.py": "x = 'Grüße 💥'\n",
            "data/deep/bytes": {
                "content": base64.b64encode(b"\0\xff").decode(),
                "encoding": "base64",
            },
            "empty": {"content": ""},
        }
        run = await execute(api, code, files=files, env={"A": "1"}, stdin="typed\n")
        assert (run["exit_code"], run["stderr"]) == (0, ""), run
        assert run["stdout"] == "Grüße 💥 b'\\x00\\xff' 1 typed"
        assert run["text"] == f"({0o644}, True)"
        assert run["memory"] == "lost"
        assert "gone" in run["memory_detail"]
        assert run["vm_id"] == run["session_id"] != ""
        assert run["execution_time_ms"] == round(run["usage"]["wall_seconds"] * 1000)
        again = await execute(api, "import os; print(os.listdir(), 'x' in globals())", envs={})
        assert again["stdout"] == "['.session_data.json'] False\n"
        assert again["run_id"] != run["run_id"]
        assert holdings(workspaces(settings), settings.runtime_dir) == before
        assert (await api.send("GET", "/api/sessions")).json["count"] == 0
        found = await api.send("GET", f"/api/sessions/{run['session_id']}/runs/{run['run_id']}")
        assert found.status == 404
        counted = (await http.get("/metrics")).text
        assert 'kernelsvc_run_seconds_count{status="completed"} 3.0' in counted
        assert "kernelsvc_one_offs 0.0" in counted


async def test_however_it_ends_it_is_told_and_nothing_is_left(server, api, settings):
    endings = {
        "1 / 0": (1, "failed"),
        "import sys; sys.exit(3)": (3, "failed"),
        "import os; os._exit(7)": (7, "failed"),
        "import os; os.kill(os.getpid(), 9)": (137, "failed"),
        "import threading; threading.Thread(target=lambda: input()).start()": (0, "completed"),
    }
    await execute(api, "1")
    async with leaving_nothing(server, settings):
        for code, (exit_code, status) in endings.items():
            run = await execute(api, code)
            assert (run["exit_code"], run["status"], run["memory"]) == (exit_code, status, "lost")
        run = await execute(api, "print('begun', flush=True)\n" + ENDLESS, timeout=0.3)
        assert (run["exit_code"], run["timed_out"], run["stdout"]) == (124, True, "begun\n")
        hog = "x = open('x', 'wb'); x.write(bytes(8 << 20)); x.flush()\n" + ENDLESS
        run = await execute(api, hog, limits={"disk": "4MiB"})
        assert (run["exit_code"], run["error"]["ename"]) == (137, "DiskLimitExceeded")


async def test_nobody_finds_its_session_while_it_goes_on(server, api, settings):
    running = asyncio.create_task(execute(api, WAITING))
    workspace = await until_waiting(workspaces(settings))
    assert (await api.send("GET", "/api/sessions")).json["count"] == 0
    for path in ("", "/runs", "/files"):
        answer = await api.send("GET", f"/api/sessions/{workspace.name}{path}")
        assert (answer.status, answer.json["code"]) == (404, "session_not_found")
    assert (await api.send("DELETE", "/api/sessions")).json["deleted_count"] == 0
    workspace.joinpath("go").touch()
    assert (await running)["session_id"] == workspace.name


@pytest.mark.parametrize("is_running", [False, True], ids=["at_once", "while_it_runs"])
async def test_it_ends_where_its_client_goes_away(server, api, settings, is_running):
    await execute(api, "1")
    body = json.dumps({"language": "python", "code": WAITING, "files": {"a/b": "c"}}).encode()
    head = b"POST /api/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    async with leaving_nothing(server, settings), connection(server.url) as (_, writer):
        writer.write(head % len(body) + body)
        if is_running:
            await until_waiting(workspaces(settings))
        else:
            await eventually(lambda: server.service.one_offs.live)


async def test_a_service_that_stops_waits_for_it_and_then_ends_it(settings):
    async with AsyncClient(timeout=60) as http:
        async with serving(settings) as server:
            http.base_url = server.url
            request = {"language": "python", "code": WAITING, "timeout": 60}
            running = asyncio.create_task(Api(http).send("POST", "/api/execute", request))
            await until_waiting(workspaces(settings))
            server.service.refuse_new()
            late = await Api(http).send("POST", "/api/execute", request)
            assert (late.status, late.json["code"]) == (503, "shutting_down")
            await server.service.drain(0.1)
            assert not running.done()
        assert (await running).json["exit_code"] == 130
    assert list(workspaces(settings).iterdir()) == []


async def test_what_a_killed_service_leaves_of_it_is_gone_after_the_next_start(settings):
    with ServiceProcess(data_dir=settings.data_dir, pool_max=0) as killed:
        before = set(psutil.Process(killed.process.pid).children(recursive=True))
        async with AsyncClient(base_url=killed.url, timeout=60) as http:
            running = asyncio.create_task(execute(Api(http), WAITING, timeout=60))
            await until_waiting(workspaces(settings))
            children = psutil.Process(killed.process.pid).children(recursive=True)
            made = set(children) - before
            assert made
            killed.kill()
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever httpx says of it
                await running
            await eventually(lambda: not any(child.is_running() for child in made))
    assert len(list(workspaces(settings).iterdir())) == 1
    async with serving(settings):
        assert list(workspaces(settings).iterdir()) == []


async def test_it_counts_against_quotas_and_kernels_while_it_goes_on(make_settings):
    settings = make_settings(max_kernels=1)
    quotas = ({"max_parallel_runs": 1}, {"max_sessions": 1}, {"max_runs_per_minute": 1})
    keys = [await make_key(settings, next(iter(quota)), **quota) for quota in quotas]
    request = {"language": "python", "code": "1", "files": {"a": "b"}}
    async with (
        serving(settings) as server,
        clients(server, *keys, await make_key(settings, "other")) as (*limited, other),
    ):
        for api, quota in zip(limited, quotas, strict=True):
            running = asyncio.create_task(execute(api, WAITING))
            workspace = await until_waiting(workspaces(settings))
            refused = await api.send("POST", "/api/execute", request)
            assert (refused.status, refused.json["code"]) == (429, "quota_exceeded")
            assert next(iter(quota)) in refused.json["error"]
            refused = await other.send("POST", "/api/execute", request)
            assert (refused.status, refused.json["code"]) == (503, "no_capacity")
            workspace.joinpath("go").touch()
            await running
        for api in (*limited[:2], other):
            assert (await api.send("POST", "/api/execute", request)).status == 200
        assert list(workspaces(settings).iterdir()) == []


WRONG = {
    "files.../x": {"files": {"../x": "1"}},
    "files./etc/x": {"files": {"/etc/x": "1"}},
    "files.a//b": {"files": {"a//b": "1"}},
    "files.": {"files": {"": "1"}},
    "files..session_data.json": {"files": {".session_data.json": "{}"}},
    "files.a": {"files": {"a": "1", "a/b": "2"}},
    "files.b": {"files": {"b": 1}},
    "files.c.content": {"files": {"c": {"content": "?", "encoding": "base64"}}},
    "files.d.encoding": {"files": {"d": {"content": "", "encoding": "latin-1"}}},
    "files.e.mode": {"files": {"e": {"content": "", "mode": 1}}},
    "files": {"files": {f"f{number}": "" for number in range(1001)}},
    "files ": {"files": {"d/" * 1000 + "f": ""}},
    "files  ": {"files": {"a": "x", "b/c": "x"}, "limits": {"disk": 8192}},
    "envs": {"env": {}, "envs": {}},
    "env": {"env": {"ERA_X": "1"}},
    "language": {"language": "cobol"},
    "timeout": {"timeout": 0},
    "timeout_ms": {"timeout_ms": 1000},
    "code": {"code": " "},
    "stdin": {"stdin": 1},
    "limits": {"limits": {"memory": "100TiB"}},
    "session_id": {"session_id": "s"},
}


async def test_a_wrong_request_is_refused_by_the_name_of_its_field(server, api, settings):
    async with leaving_nothing(server, settings):
        for field, wrong in WRONG.items():
            body = json.dumps({"language": "python", "code": "open('x')", **wrong})
            answer = await raw(api, "POST", "/api/execute", body)
            problem = problem_of(answer, 400, "invalid_request")
            assert fields_of(problem) == [field.strip()], problem


async def test_a_key_against_repetition_is_refused_rather_than_ignored(server, api):
    answer = await api.http.post(
        "/api/execute",
        json={"language": "python", "code": "1"},
        headers={"Idempotency-Key": "k"},
    )
    assert fields_of(problem_of(answer, 400, "invalid_request")) == ["Idempotency-Key"]


async def test_a_limit_on_files_holds_for_the_code_however_small_and_not_for_its_kernel(api):
    code = "with open('f', 'wb', buffering=0) as file: print(file.write(b'12'), file.write(b'3'))"
    run = await execute(api, code, limits={"file_size": 2})
    assert (run["exit_code"], run["error"]["ename"]) == (1, "OSError")
    assert "File too large" in run["error"]["evalue"]

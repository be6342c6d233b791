"""Setup: what a session installs before its first run, and what becomes of it."""

import asyncio
import contextlib
import importlib.util
import time
from functools import partial

import httpx
import pytest

from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.index import Index
from tests.support.problems import fields_of, refused
from tests.support.waiting import eventually


@pytest.fixture
def index(io_loop):
    stack = contextlib.AsyncExitStack()
    yield io_loop.run_sync(partial(stack.enter_async_context, Index()))
    io_loop.run_sync(stack.aclose)


@pytest.fixture
def server(serve, index):
    return serve(**index.settings)


async def set_up(api, session_id="s", **setup):
    """Make a session, and return it when its setup has ended."""
    await api.create(session_id, setup=setup)
    return await ended(api, session_id)


async def ended(api, session_id="s"):
    answer = await api.send("POST", f"/api/sessions/{session_id}/wake")
    assert answer.status == 200, answer
    return answer.json


async def until_asked(index, path):
    await eventually(lambda: path in index.seen, 20)


HELLO = "Requires-Dist: extra_one; extra == 'more'\nProvides-Extra: more\n"
ABOUT = "import hello, extra_one; print(hello.version, hello.__file__)"
NODE = (
    "import subprocess\n"
    "open('ask.cjs', 'w').write('console.log(require(\"two\")(21), require(\"@some/three\"))')\n"
    "print(subprocess.run(['deno', 'run', '-A', '--no-remote', 'ask.cjs'],\n"
    "                     capture_output=True, text=True).stdout)"
)


async def test_what_is_set_up_is_there_for_the_session_alone_and_stays(api, index, server):
    for version in ("1.0", "1.5", "2.0"):
        index.add_wheel("hello", version, metadata=HELLO)
    index.add_wheel("extra_one")
    index.add_npm("two", "module.exports = n => n * 2")
    index.add_npm("@some/three", "module.exports = 3", "3.1.0")
    session = await api.create(
        setup={
            "pip": {"requirements": "hello[more] <2  # not the newest\n"},
            "npm": ["two", "@some/three@^3.0.0"],
            "commands": ["echo $GREETING > /tmp/said", "cat /tmp/said >said; pwd"],
            "envs": {"GREETING": "hi"},
        },
    )
    assert (session["state"], session["setup_result"]["success"]) == ("setting_up", False)
    assert session["setup_status"] in ("pending", "running")
    # The run waits.
    run = await api.run(ABOUT, timeout=60)
    assert run["stdout"].startswith("1.5 /workspace/.packages/"), run["stderr"]

    session = await api.session()
    assert (session["state"], session["setup_status"]) == ("idle", "completed")
    result = session["setup_result"]
    assert result["success"]
    assert result["pip_packages"] == ["hello[more]<2"]
    assert result["npm_packages"] == ["two", "@some/three@^3.0.0"]
    assert result["commands_run"] == ["echo $GREETING > /tmp/said", "cat /tmp/said >said; pwd"]
    assert [step["name"] for step in result["steps"]] == ["pip", "npm", "commands.0", "commands.1"]
    assert all(step["exit_code"] == 0 for step in result["steps"])
    assert "Successfully installed" in result["steps"][0]["log"]
    assert result["log"].endswith("$ cat /tmp/said >said; pwd\n/workspace\n")
    assert (await api.run("print(open('said').read(), end='')"))["stdout"] == "hi\n"
    assert (await api.run(NODE, timeout=60))["stdout"] == "42 3\n\n"
    assert not [path for path in await files_of(api) if "SCRIPT_RAN" in path]

    await api.send("POST", "/api/sessions/s/sleep")
    run = await api.run(ABOUT, timeout=60)
    assert run["stdout"].startswith("1.5 ")
    await api.create("other")
    assert (await api.run("import hello", "other"))["error"]["ename"] == "ModuleNotFoundError"
    assert importlib.util.find_spec("hello") is None
    taken = (await api.http.get("/metrics")).text
    assert "kernelsvc_sandboxes 2.0" in taken.splitlines()


async def files_of(api, session_id="s"):
    answer = await api.send("GET", f"/api/sessions/{session_id}/files")
    return [file["path"] for file in answer.json["files"]]


SCRIBBLE = """
import os, pathlib
print(os.path.exists("/cache"))
for place in ("/workspace", "/cache", "/run", "/tmp", "/var", "/dev/shm", "/etc", "/home", "/opt"):
    for directory, _, names in os.walk(place):
        for name in names:
            try:
                pathlib.Path(directory, name).write_text("poisoned = True")
            except OSError:
                pass
"""


async def test_a_second_session_gets_what_was_downloaded_whatever_the_first_does(api, index):
    wheel = index.add_wheel("hello")
    index.add_npm("two", "module.exports = 2")
    await set_up(api, "first", pip=["hello"], npm=["two"])
    assert (await api.run(SCRIBBLE, "first", timeout=60))["stdout"] == "False\n"
    spoilt = await api.run("print(open('node_modules/two/index.js').read())", "first")
    assert spoilt["stdout"] == "poisoned = True\n"
    second = await set_up(api, "second", pip=["hello"], npm=["two"])
    assert second["setup_status"] == "completed", second
    look = "import hello; print(hello.version, open('node_modules/two/index.js').read())"
    assert (await api.run(look, "second"))["stdout"] == "1.0 module.exports = 2\n"
    assert (index.downloads(wheel), index.downloads("two-1.0.0.tgz")) == (1, 1)


HOSTILE = """
import glob, os, urllib.request, zipfile
seen = f"cache={{os.path.exists('/cache')}}"
urllib.request.urlopen("{url}/ran?" + seen.lower())
def build_wheel(directory, config=None, metadata=None):
    open("/workspace/built_here", "a").write(os.environ.get("BUILT_WITH", "nothing"))
    name = "hostile-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{{directory}}/{{name}}", "w") as wheel:
        about = "Metadata-Version: 2.1\\nName: hostile\\nVersion: 1.0\\n"
        kind = "Wheel-Version: 1.0\\nTag: py3-none-any\\n"
        wheel.writestr("hostile.py", "answer = 42")
        wheel.writestr("hostile-1.0.dist-info/METADATA", about)
        wheel.writestr("hostile-1.0.dist-info/WHEEL", kind)
        wheel.writestr("hostile-1.0.dist-info/RECORD", "")
    return name
"""


@pytest.mark.parametrize("how", ["as a requirement", "by a URL that a wheel depends on"])
async def test_a_package_that_must_be_built_is_where_only_the_session_is(api, index, how):
    # A build that could not tell would fail.
    for told in ("false", "true"):
        index.add_page(f"/ran?cache={told}")
    sdist = index.add_sdist("hostile", HOSTILE.format(url=index.url))
    index.add_wheel("on_hostile", metadata=f"Requires-Dist: hostile @ {index.url}/files/{sdist}\n")
    wanted = "hostile" if how == "as a requirement" else "on_hostile"
    session = await set_up(api, pip=[wanted], envs={"BUILT_WITH": "what was given"})
    assert session["setup_status"] == "completed", session["setup_result"]["log"]
    assert {path for path in index.seen if path.startswith("/ran")} == {"/ran?cache=false"}
    run = await api.run("import hostile; print(hostile.answer, open('built_here').read())")
    assert run["stdout"] == "42 what was given\n"
    assert "trying again, and building" in session["setup_result"]["log"]
    assert not [path for path in await files_of(api) if path.startswith(".setup")]


async def test_a_setup_that_fails_says_why_and_leaves_a_session_that_can_be_used(api, index):
    failing = {
        "package": {"pip": ["no-such-thing"], "commands": ["touch never"]},
        "npm": {"npm": ["no-such-thing"]},
        "command": {"commands": ["echo one", "echo two >&2; exit 3", "touch never"]},
        "flood": {"commands": ["head -c 1000000 /dev/zero | tr '\\0' x; echo end; exit 1"]},
        "disk": {"commands": ["head -c 20000000 /dev/zero >large; sleep 60"]},
    }
    limits = {"disk": "16MiB"}
    for name, setup in failing.items():
        await api.create(name, setup=setup, limits=limits if name == "disk" else {})
    results = {name: (await ended(api, name))["setup_result"] for name in failing}
    for name, result in results.items():
        assert (await api.session(name))["setup_status"] == "failed"
        assert result["success"] is False
        assert (await api.run("import os; print('never' in os.listdir())", name))["stdout"] == (
            "False\n"
        )
    assert "no-such-thing" in results["package"]["error"]
    assert [step["status"] for step in results["package"]["steps"]] == ["failed", "skipped"]
    assert "'no-such-thing' does not exist" in results["npm"]["error"]
    assert results["command"]["error"] == "commands.1: exit code 3: two"
    assert results["command"]["steps"][1]["exit_code"] == 3
    assert (results["command"]["stdout"], results["command"]["stderr"]) == ("one\n", "two\n")
    assert results["command"]["commands_run"] == ["echo one", "echo two >&2; exit 3"]
    assert 60_000 < len(results["flood"]["log"]) < 70_000
    assert results["flood"]["log"].endswith("xxx" + "end\n")
    assert "more of the disk than 16 MiB" in results["disk"]["error"]


async def test_a_setup_ends_when_its_time_is_up_or_it_is_interrupted(make_settings, index):
    index.add_wheel("hello")
    index.held.add("/simple/hello/")
    async with (
        serving(make_settings(**index.settings, setup_timeout=1.5)) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
    ):
        api = Api(http)
        began = time.monotonic()
        session = await set_up(api, pip=["hello"], commands=["true"])
        assert time.monotonic() - began < 6
        assert session["setup_result"]["error"] == "the setup took longer than 1.5 s"
        assert (await api.run("6 * 7"))["text"] == "42"

        await api.create("t", setup={"commands": ["echo begun; sleep 60"]})

        async def has_begun():
            session = await api.session("t")
            return session["setup_result"]["log"] == "$ echo begun; sleep 60\nbegun\n" and session

        session = await eventually(has_begun)
        assert session["state"] == "setting_up"
        assert session["setup_result"]["steps"][0]["status"] == "running"
        for act, body in (("sleep", None), ("run", {"code": "1", "if_busy": "reject"})):
            answer = await api.send("POST", f"/api/sessions/t/{act}", body)
            assert (answer.status, answer.json["code"]) == (409, "session_busy")
        await api.send("POST", "/api/sessions/t/interrupt")
        result = (await ended(api, "t"))["setup_result"]
        assert result["error"] == "it was interrupted"
        assert result["log"].endswith("begun\n")


async def test_an_index_that_cannot_be_reached_is_named_as_the_reason(make_settings, index):
    nowhere = {**index.environment, "PIP_INDEX_URL": "https://127.0.0.2:9/simple"}
    settings = make_settings(**{**index.settings, "setup_environment": nowhere})
    async with (
        serving(settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
    ):
        session = await set_up(Api(http), pip=["hello"])
        assert session["setup_result"]["error"].startswith(
            "pip: the package index could not be reached: "
        )
        assert "building" not in session["setup_result"]["log"]


async def test_a_session_that_is_deleted_while_it_is_set_up_leaves_nothing(api, index, tmp_path):
    index.add_wheel("hello")
    index.held.add("/simple/hello/")
    await api.create(setup={"pip": ["hello"]})
    await api.create("t", setup={"commands": ["sleep 600"]})
    run = asyncio.create_task(api.send("POST", "/api/sessions/s/run", {"code": "1"}))
    await until_asked(index, "/simple/hello/")
    began = time.monotonic()
    for session_id in ("s", "t"):
        assert (await api.send("DELETE", f"/api/sessions/{session_id}")).status == 200
    assert time.monotonic() - began < 5
    assert (await run).status == 404
    assert (await api.send("GET", "/api/sessions/s")).status == 404
    data = tmp_path / "data"
    assert not [path for place in ("workspaces", "workspaces.spares")
                for path in (data / place).iterdir()]  # fmt: skip


async def test_a_setup_outlives_the_service_and_one_that_goes_on_is_begun_anew(
    make_settings, index
):
    index.add_wheel("hello")
    settings = make_settings(**index.settings, drain_timeout=0.1)
    async with (
        serving(settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
    ):
        api = Api(http)
        await set_up(api, "done", pip=["hello"])
        index.held.add("/simple/hello/")
        index.seen.clear()
        await api.create("going", setup={"pip": ["hello"]})
        await until_asked(index, "/simple/hello/")
    await index.release()
    async with (
        serving(settings) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
    ):
        api = Api(http)

        async def is_completed():
            # Nobody has it woken.
            return (await api.session("going"))["setup_status"] == "completed"

        await eventually(is_completed, 30)
        done = await api.session("done")
        assert (done["setup_status"], done["state"]) == ("completed", "sleeping")
        assert "Successfully installed hello" in done["setup_result"]["log"]
        for name in ("done", "going"):
            assert (await api.run("import hello; hello.version", name))["text"] == "'1.0'"


async def test_pip_in_a_run_installs_for_the_session(api, index):
    index.add_wheel("hello")
    await api.create(allowInternetAccess=True, env=index.environment)
    run = await api.run("%pip install -q hello\nimport hello; print(hello.__file__)", timeout=60)
    assert run["stdout"].splitlines()[-1].startswith("/workspace/.packages/"), run


async def test_without_a_sandbox_setup_works_as_well(make_settings, index):
    index.add_wheel("hello")
    async with (
        serving(make_settings(**index.settings, sandbox="off")) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
    ):
        api = Api(http)
        session = await set_up(api, pip=["hello"], commands=["echo here >file"])
        assert session["setup_status"] == "completed", session
        run = await api.run("import hello; print(hello.version, open('file').read())")
        assert run["stdout"] == "1.0 here\n\n", run["stderr"]


WRONG = [
    ('{"setup": {"pip": ["fine", "pandas=="]}}', "setup.pip"),
    ('{"setup": {"pip": {"requirements": "-r other.txt"}}}', "setup.pip"),
    ('{"setup": {"npm": ["file:../x"]}}', "setup.npm"),
    ('{"setup": {"commands": "ls"}}', "setup.commands"),
    ('{"setup": {"pips": ["x"]}}', "setup.pips"),
    ('{"setup": {"pip": ["hello"]}, "persistent": false}', "setup"),
]


async def test_what_cannot_be_set_up_is_refused_by_the_name_of_its_field(api):
    for body, field in WRONG:
        whole = body.replace("{", '{"language": "python", "session_id": "s", ', 1)
        problem = await refused(api, "POST", "/api/sessions", whole)
        assert fields_of(problem) == [field]


async def test_without_internet_for_setups_there_are_commands_only(make_settings):
    async with (
        serving(make_settings(setup_internet=False)) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
    ):
        api = Api(http)
        body = '{"language": "python", "setup": {"pip": ["x"], "npm": ["x"], "go": ["a.b/c"]}}'
        problem = await refused(api, "POST", "/api/sessions", body)
        assert fields_of(problem) == ["setup.pip", "setup.npm", "setup.go"]
        session = await set_up(api, commands=["echo proxy=$HTTP_PROXY"])
        assert session["setup_result"]["steps"][0]["log"] == "proxy=\n"

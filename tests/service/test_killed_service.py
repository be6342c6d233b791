"""The service is killed (SIGKILL) and started again: its kernels have outlived it."""

import asyncio
import json
import os
import shutil
import sqlite3
import sys

import pytest
from httpx import HTTPError

from kernelsvc.sandbox import cgroups
from tests.service.test_callbacks import LOOPBACK, receiving
from tests.service.test_duplicate import SLOW_TO_SAVE
from tests.support.lives import Lives
from tests.support.waiting import eventually

SERVER = """
import http.server, threading
server = http.server.HTTPServer(("127.0.0.1", 8000), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""
ATTACK = """
import os, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attacker:
    try:
        attacker.connect({address!r})
    except OSError as error:
        print(type(error).__name__)
held = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()]
print([link for link in held if "kernelsvc" in link or "pidfd" in link])
"""
TAKE = """
import os, socket, sys
directory = os.open(sys.argv[1], os.O_PATH)
os.setresuid(60878, 60878, 60878)
taker = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
taker.connect(f"/proc/self/fd/{directory}/caretaker")
print(len(taker.recv(100)))
"""
FLOOD = """
import os
while not os.path.exists("go"): print("x" * 999)
for _ in range(100_000): print("x" * 99)
open("done", "w").close()
"""
FETCH = """
import http.client, os, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["http_proxy"])
asking = http.client.HTTPConnection(proxy.hostname, proxy.port)
asking.request("GET", "{url}")
print(asking.getresponse().status)
"""


@pytest.fixture
def make_lives():
    made = []

    def make(**settings):
        made.append(Lives(**settings))
        return made[-1]

    yield make
    for lives in made:
        lives.end()


async def begin(api, code, session_id="s", **fields):
    """Begin a run in the background, and return when it is going on."""
    body = {"code": code, "background": True, **fields}
    begun = await api.send("POST", f"/api/sessions/{session_id}/run", body)
    assert begun.status == 202, begun
    await api.until_running(session_id)
    return begun.json["run_id"]


async def ended(api, run_id, session_id="s", seconds=20):
    found = await api.send("GET", f"/api/sessions/{session_id}/runs/{run_id}?wait={seconds}")
    assert found.status == 200, found
    return found.json


async def test_sessions_go_on_after_three_kills_with_all_that_they_have(make_lives):
    lives = make_lives(internet_networks=LOOPBACK, pool_min=1, pool_max=1)
    async with receiving() as outside:
        fetch = FETCH.format(url=outside.url)
        async with lives.life() as api:
            await api.create(data={"a": 1})
            pid = await api.run("import os; count = 0; array = bytearray(100_000_000)\nos.getpid()")
            await api.create("net", allowInternetAccess=True)
            assert (await api.run(fetch, "net"))["stdout"] == "200\n"
            await api.run(SERVER, "net")
            attack = await api.run(ATTACK.format(address=str(lives.data / "caretaker")), "net")
            assert attack["stdout"] == "FileNotFoundError\n[]\n"
            # What is said before the kernel has run is said once, a kill in between or not.
            await api.create("quiet")
            await api.run("x = 1", "quiet")
            await api.send("POST", "/api/sessions/quiet/sleep")
            await api.send("POST", "/api/sessions/quiet/wake")
            lives.kill()
        await nobody_else_is_handed_anything(lives)
        for number in range(1, 4):
            async with lives.life() as api:
                session = await api.session()
                assert (session["state"], session["data"]) == ("idle", {"a": 1})
                run = await api.run("count += 1\nprint(count, len(array), os.getpid())")
                assert run["stdout"] == f"{number} 100000000 {pid['text']}\n"
                assert (run["memory"], run["missing"], run["truncated"]) == ("kept", None, False)
                if number == 1:
                    run = await api.run("x", "quiet")
                    assert (run["text"], run["memory"]) == ("1", "restored")
                    metrics = (await api.http.get("/metrics")).text
                    assert "kernelsvc_sandboxes 3.0" in metrics
                if number < 3:
                    lives.kill()
                    continue
                assert (await api.run("x", "quiet"))["memory"] == "kept"
                assert (await api.run(fetch, "net"))["stdout"] == "200\n"
                assert (await api.http.get("/proxy/net/8000/")).status_code == 200
                names = await api.send("GET", "/api/sessions/s/files")
                assert names.json["count"] == 0
                # It is asleep, and awake, and gone, as any other.
                assert (await api.send("POST", "/api/sessions/s/sleep")).status == 200
                run = await api.run("count", session_id="s")
                assert (run["text"], run["memory"]) == ("3", "restored")
                before = {each for each in lives.note() if each.name() == "kernel"}
                assert (await api.send("DELETE", "/api/sessions/net")).status == 200
                metrics = (await api.http.get("/metrics")).text
                assert "kernelsvc_sandboxes 2.0" in metrics
                assert before


async def nobody_else_is_handed_anything(lives):
    """Not even where the socket's mode would let another user connect."""
    address = lives.data / "caretaker"
    assert address.stat().st_mode & 0o777 == 0o600
    if os.getuid() == 0:
        lives.data.chmod(0o711)
        address.chmod(0o666)
        taker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", TAKE, lives.data, stdout=asyncio.subprocess.PIPE
        )
        assert (await taker.communicate())[0] == b"0\n"


async def test_runs_are_seen_through_or_told_of_after_a_kill(make_lives):
    lives = make_lives(callback_networks=LOOPBACK, terminate_grace=0.3)
    sleep = "import time\nprint('before', flush=True)\n"
    until = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    async with receiving() as receiver:
        async with lives.life() as api:
            names = ("late", "timed", "stuck", "ended", "flood", "died", "asked", "queued")
            await asyncio.gather(*(api.create(name) for name in names))
            await asyncio.gather(*(api.run("kept = 1", name) for name in names))
            await api.create("bash", language="bash")
            await api.run("kept=1", "bash")
            runs = {
                "late": await begin(
                    api, sleep + until + "print('after'); 1 / 0", "late", callback_url=receiver.url
                ),
                "timed": await begin(
                    api, sleep + "time.sleep(60)", "timed", timeout=4, on_timeout="interrupt"
                ),
                # It lets no other thread of the kernel have a word.
                "stuck": await begin(
                    api, "import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "stuck", timeout=4
                ),
                "ended": await begin(api, until + "print('x')\nopen('done', 'w')", "ended"),
                "flood": await begin(api, FLOOD, "flood"),
                "bash": await begin(
                    api, "until [ -e go ]; do sleep 0.01; done; touch done; (exit 3)", "bash"
                ),
                "died": await begin(api, until + "os._exit(7)", "died"),
                "queued": await begin(api, until, "queued"),
            }
            behind = {"code": "1", "background": True}
            runs["behind"] = (await api.send("POST", "/api/sessions/queued/run", behind)).json[
                "run_id"
            ]
            asked = asyncio.create_task(api.run(until + "print('asked')", "asked"))
            await api.until_running("asked")
            patch = {"data": {"patched": True}}
            assert (await api.send("PATCH", "/api/sessions/late", patch)).status == 200
            lives.kill()
            with pytest.raises(HTTPError):
                await asked
        for name in ("ended", "flood", "bash", "died"):
            lives.workspace(name).joinpath("go").touch()
        for name in ("ended", "flood", "bash"):
            # With nobody who listens, code comes to its end.
            await eventually(lives.workspace(name).joinpath("done").exists, 20)
        # Services that are killed as they start lose nothing.
        await lives.begin_and_kill(b"kernels_found_again")
        await lives.begin_and_kill(0.5)
        async with lives.life() as api:
            assert (await api.session("late"))["state"] == "running"
            for name in ("late", "asked", "queued"):
                lives.workspace(name).joinpath("go").touch()
            late = await ended(api, runs["late"], "late")
            assert (late["stdout"], late["exit_code"], late["status"]) == ("after\n", 1, "failed")
            assert (late["memory"], late["truncated"]) == ("kept", True)
            assert "what it had put out by then is missing" in late["missing"]
            assert late["data"] == {"patched": True}
            await eventually(lambda: receiver.got)
            assert json.loads(receiver.got[0][1]) == late
            for name in ("ended", "flood"):
                run = await ended(api, runs[name], name)
                assert (run["status"], run["exit_code"], run["stdout"]) == ("completed", 0, "")
                assert (run["memory"], run["truncated"]) == ("kept", True)
                assert "while the service was away" in run["missing"]
            shell = await ended(api, runs["bash"], "bash")
            assert (shell["exit_code"], shell["missing"]) == (3, run["missing"])
            assert (await api.run("echo $kept", "bash"))["stdout"] == "1\n"
            died = await ended(api, runs["died"], "died")
            assert (died["status"], died["exit_code"]) == ("interrupted", None)
            assert (died["memory"], (await api.run("1", "died"))["exit_code"]) == ("restored", 0)
            behind = await ended(api, runs["behind"], "queued")
            assert (behind["status"], behind["started_at"]) == ("interrupted", None)
            assert (behind["memory"], behind["memory_detail"]) == ("kept", None)
            # The one that nobody got an answer of is in the history.
            entry = (await api.send("GET", "/api/sessions/asked/runs")).json["runs"][0]
            assert "print('asked')" in entry["code"]
            assert (await ended(api, entry["run_id"], "asked"))["stdout"] == "asked\n"
            for name, memory in (("timed", "kept"), ("stuck", "restored")):
                run = await ended(api, runs[name], name)
                assert (run["exit_code"], run["timed_out"], run["memory"]) == (124, True, memory)
                assert float(run["duration"].removesuffix("s")) >= 4
            for name in ("late", "timed", "ended", "flood", "asked", "queued"):
                assert (await api.run("kept", name))["text"] == "1"
                assert (await api.session(name))["run_count"] == (4 if name == "queued" else 3)
            assert len(receiver.got) == 1


async def test_a_kernel_that_was_brought_back_is_found_again_from_the_answer_on(make_lives):
    lives = make_lives()

    async def has_two_that_timed_out():
        metrics = (await api.http.get("/metrics")).text
        return 'kernelsvc_run_seconds_count{status="timed_out"} 2.0' in metrics

    async with lives.life() as api:
        await asyncio.gather(api.create(), api.create("unheard"))
        await asyncio.gather(api.run(SLOW_TO_SAVE), api.run("x = 1", "unheard"))
        unheard = await begin(api, "x = 2\nwhile True: pass", "unheard", timeout=0.5)
        # Its result cannot be stored.
        database = sqlite3.connect(lives.data / "kernelsvc.db", isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        run = asyncio.create_task(api.run("x = 2\nwhile True: pass", timeout=0.3))
        await api.until_running()
        # It has the turn behind the run, and keeps it.
        copying = asyncio.create_task(api.send("POST", "/api/sessions/s/duplicate", {}))
        assert ((await run)["memory"], (await run)["timed_out"]) == ("restored", True)
        await eventually(lives.workspace().joinpath("saving").exists)
        await eventually(has_two_that_timed_out)
        lives.kill()
        with pytest.raises(HTTPError):
            await copying
    database.close()
    lives.workspace().joinpath("go").touch()
    async with lives.life() as api:
        # What it is brought back to, should this cost it.
        for number, memory in ((3, "restored"), (4, "restored"), (None, "kept")):
            code = "x" if number is None else f"x = {number}\nimport os; os._exit(1)"
            run = await api.run(code)
            assert run["memory"] == memory, run
        assert run["text"] == "1"
        assert (await api.session())["run_count"] == 5
        run = await ended(api, unheard, "unheard")
        assert (run["status"], run["memory"]) == ("interrupted", "restored")
        assert run["memory_detail"].startswith("the run timed out and its kernel was replaced")
        run = await api.run("x = 3\nimport os; os._exit(1)", "unheard")
        assert run["memory"] == "restored"
        run = await api.run("x", "unheard")
        assert (run["text"], run["memory"]) == ("1", "kept")
        lives.note()


BEGUN = {
    "wake": "*/host-*",
    "sleep": "s/leaving",
    "run": "s/ran",
    "setup": "setup/begun",
    "create": "create",
}
"""What is there when it has begun: below the runtime directory, or the workspaces."""


async def test_a_kill_in_the_midst_of_anything_leaves_nothing_stuck(make_lives):
    lives = make_lives()
    async with lives.life() as api:
        await api.create(data={"a": 1})
        await api.run("import os, time; x = 1")
        await api.send("POST", "/api/sessions/s/sleep")
        await kill_within(lives, api, wake=("/s/wake", None))
    async with lives.life() as api:
        await told(api, "restored")
        new = {"language": "python", "session_id": "create"}
        run = {"code": "open('ran', 'w').close()"}
        await kill_within(lives, api, run=("/s/run", run), create=("", new))
    async with lives.life() as api:
        await told(api, "kept")
        answer = await api.send("GET", "/api/sessions/create")
        assert answer.status == 404 or (await api.run("1", "create"))["memory"] == "kept"
        setup = {"commands": ["touch begun; while [ ! -e go ]; do sleep 0.01; done"]}
        new = {"language": "python", "session_id": "setup", "setup": setup}
        # Its memory has been saved; this handler does not come to an end.
        leaving = "import atexit\n@atexit.register\ndef _(): os.mkdir('leaving'); time.sleep(60)"
        await api.run(leaving)
        await kill_within(lives, api, setup=("", new), sleep=("/s/sleep", None))
    async with lives.life() as api:
        await told(api, "restored")
        lives.workspace("setup").joinpath("go").touch()
        assert (await api.run("1", "setup"))["exit_code"] == 0
        assert (await api.session("setup"))["setup_status"] == "completed"
        assert (await api.send("DELETE", "/api/sessions")).status == 200
        lives.note()


async def kill_within(lives, api, **asked):
    """Ask for things, and kill the service when they have begun."""
    doing = [
        asyncio.create_task(api.send("POST", f"/api/sessions{path}", body))
        for path, body in asked.values()
    ]
    for what in asked:
        below = lives.runtime if what == "wake" else lives.workspace("s").parent
        await eventually(lambda: any(below.glob(BEGUN[what])))  # noqa: B023
    lives.kill()
    await asyncio.gather(*doing, return_exceptions=True)


async def told(api, memory):
    """The next run finds what there was, and is told so."""
    run = await api.run("x")
    assert (run["text"], run["memory"], run["data"]) == ("1", memory, {"a": 1})


def groups_of(pid):
    """The control groups of a service."""
    roots = {cgroups._ROOT, *cgroups._own_groups().values()}
    return [found for root in roots for found in root.glob(f"kernelsvc-{pid}-*")]


async def test_when_the_grace_is_over_nothing_is_left_and_sessions_sleep(make_lives):
    lives = make_lives(orphan_grace=0.5)
    async with lives.life() as api:
        await api.create()
        await api.run("x = 1")
        await api.send("POST", "/api/sessions/s/sleep")
        await api.send("POST", "/api/sessions/s/wake")
        await api.create("ran")
        await api.run(
            "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)", "ran"
        )
        pid = lives.service.process.pid
        assert os.getuid() != 0 or groups_of(pid)
        assert {each.name() for each in lives.note()} >= {"kernel", "kernel-host", "bwrap", "sleep"}
        lives.kill()
    # It waits for as long as it was told to, and then for all to have ended.
    assert lives.left() == []
    assert groups_of(pid) == []
    assert list(lives.runtime.glob("*/")) == []
    assert not lives.data.joinpath("caretaker").exists()
    async with lives.life(orphan_grace=30) as api:
        for name in ("s", "ran"):
            assert (await api.session(name))["state"] == "sleeping"
        run = await api.run("x")
        assert (run["text"], run["memory"]) == ("1", "restored")
        assert (await api.run("1", "ran"))["memory"] == "lost"
        lives.note()
        assert lives.kept() == 2
        lives.caretaker.kill()
        # Another one comes in its place, and is handed what there is.
        await eventually(lambda: lives.note() and lives.kept() == 2)
        lives.kill()
    async with lives.life(orphan_grace=30) as api:
        assert (await api.run("x"))["memory"] == "kept"
        lives.kill()
        lives.caretaker.kill()
    # With neither, nothing goes on.
    assert lives.left() == []
    # As after a boot of the machine.
    for directory in lives.runtime.glob("*/"):
        shutil.rmtree(directory)
    async with lives.life() as api:
        assert (await api.session())["state"] == "sleeping"
        assert (await api.run("1"))["memory"] == "lost"
        lives.note()

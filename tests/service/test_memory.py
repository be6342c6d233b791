"""What sleep keeps of a session's memory, what it cannot keep, and that it says so."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.files import make_trap
from tests.support.named import named
from tests.support.process import ServiceProcess
from tests.support.waiting import eventually


@pytest.fixture
def memory_file(tmp_path):
    return tmp_path / "data" / "workspaces" / "s" / ".session_memory"


@asynccontextmanager
async def service(settings):
    """A client of a service with those settings."""
    async with (
        serving(settings) as server,
        AsyncClient(base_url=server.url, timeout=60) as http,
    ):
        yield Api(http)


async def sleep(api):
    answer = await api.send("POST", "/api/sessions/s/sleep")
    assert (answer.status, answer.json["state"]) == (200, "sleeping"), answer


async def wake(api):
    """Wakes the session; the names that are restored, and by name why others are not."""
    answer = await api.send("POST", "/api/sessions/s/wake")
    assert answer.status == 200, answer
    assert answer.json == await api.session()
    return answer.json["restored"], {
        one["name"]: one["reason"] for one in answer.json["not_restored"]
    }


async def prepared(api, *codes, **options):
    await api.create(**options)
    for code in codes:
        run = await api.run(code)
        assert run["exit_code"] == 0, run["stderr"]


# ---- what comes back


async def test_more_than_variables_comes_back_and_the_first_run_says_so(api):
    await prepared(
        api,
        "import os, random, sys, warnings, numpy as np\n"
        "random.seed(5); np.random.seed(5)\n"
        "os.makedirs('deep/er'); os.chdir('deep')\n"
        "os.environ['OWN'] = 'x'; del os.environ['LANG']\n"
        "sys.path.insert(0, '/workspace/deep/er'); sys.path.append('/workspace/last')\n"
        "warnings.filterwarnings('ignore', message='mine')\n"
        "expected = random.Random(5).random(), np.random.RandomState(5).rand()",
        "def boom():\n    return 1 / 0",
        "from __future__ import annotations\n40 + 2",
    )
    await sleep(api)
    assert (await api.session())["restored"] == []
    run = await api.run(
        "import inspect\n"
        "print(os.getcwd(), os.environ['OWN'], 'LANG' in os.environ, sys.path[0], sys.path[-1])\n"
        "print((random.random(), np.random.rand()) == expected)\n"
        "print(_, _3, Out[3], len(In), In[2][:3], _i2[:3], ['mine' in str(f[1]) for f in "
        "warnings.filters][0])\n"
        "print(inspect.getsource(boom).splitlines()[1])"
    )
    assert run["stdout"].splitlines() == [
        "/workspace/deep x False /workspace/deep/er /workspace/last",
        "True",
        "42 42 42 5 def def True",
        "    return 1 / 0",
    ]
    assert (run["memory"], run["memory_detail"]) == ("restored", "the session was asleep")
    assert run["execution_count"] == 4
    failed = await api.run("boom()")
    assert (failed["memory"], failed["execution_count"]) == ("kept", 5)
    assert "return 1 / 0" in failed["stderr"]
    # What `from __future__` has changed, holds.
    assert (await api.run("def f(x: nonesuch): pass"))["exit_code"] == 0


async def test_a_sleep_by_itself_keeps_memory_and_so_does_the_sleep_after(api):
    await prepared(api, "x = [1]", sleep_after=0.2)

    async def is_asleep():
        return (await api.session())["state"] == "sleeping"

    for number in (1, 2):
        await eventually(is_asleep)
        run = await api.run(f"x.append({number}); len(x)")
        assert (run["text"], run["memory"]) == (str(number + 1), "restored")


async def test_a_session_that_is_woken_and_left_alone_keeps_what_it_slept_with(api, memory_file):
    await prepared(api, "x = 1", "y = 2")
    await sleep(api)
    written = memory_file.stat().st_ino
    assert (await wake(api))[0] == ["x", "y"]
    await sleep(api)
    assert memory_file.stat().st_ino == written
    assert (await wake(api))[0] == ["x", "y"]
    run = await api.run("x + y")
    assert (run["text"], run["memory"]) == ("3", "restored")
    assert not memory_file.exists()
    assert (await api.session())["restored"] == ["x", "y"]


async def test_the_memory_is_no_file_of_the_sessions_but_counts_towards_its_disk(api):
    await prepared(api, "import os; x = os.urandom(1 << 20)", limits={"disk": "4MiB"})
    before = await api.session()
    await sleep(api)
    after = await api.session()
    assert (after["file_count"], after["total_size_bytes"]) == (
        before["file_count"],
        before["total_size_bytes"],
    )
    assert (await api.send("GET", "/api/sessions/s/files")).json["files"] == []
    archive = (await api.http.get("/api/sessions/s/archive")).content
    assert len(archive) < 1 << 20
    for method in ("PUT", "DELETE"):
        refused = await api.http.request(method, "/api/sessions/s/files/.session_memory")
        assert refused.status_code == 400
        assert "memory" in refused.text
    full = await api.http.put("/api/sessions/s/files/large", content=bytes(7 << 19))
    assert full.status_code == 413
    assert (await api.run("len(x)"))["memory"] == "restored"
    assert (await api.http.put("/api/sessions/s/files/large", content=bytes(7 << 19))).is_success


# ---- what does not, and why

BAD = """
import os, signal, time
class Refuses:
    def __reduce__(self): raise ValueError('not today')
class Sleeps:
    def __reduce__(self): time.sleep(60)
class Hangs:
    def __reduce__(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)
class Dies:
    def __reduce__(self): os.kill(os.getpid(), 11)
class Prints:
    def __reduce__(self): print('from the copy'); return (int, ())
class ReturnsBadly:
    def __setstate__(self, state): raise KeyError('no')
class DiesLater:
    def __reduce__(self): return (os.abort, ())
before = 1
refuses, sleeps, hangs, dies, prints, badly = (
    Refuses(), Sleeps(), Hangs(), Dies(), Prints(), ReturnsBadly())
badly.state = 1
large = os.urandom(1 << 20)
after = [before, 2]
"""


async def test_each_variable_that_cannot_be_kept_is_named_with_the_reason(make_settings):
    settings = make_settings(sleep_save_timeout=4, memory_file_bytes=1 << 19)
    async with service(settings) as api:
        await prepared(api, BAD)
        await sleep(api)
        restored, missing = await wake(api)
        assert {"before", "after", "Dies", "prints"} <= set(restored)
        assert missing.keys() == {"refuses", "sleeps", "hangs", "dies", "badly", "large"}
        assert missing["refuses"] == "ValueError: not today"
        assert missing["sleeps"].startswith("to write it takes more than")
        assert missing["hangs"] == "to write it took too long"
        assert missing["dies"] == "the process that was to write it died"
        assert missing["badly"] == "KeyError: 'no'"
        assert "room" in missing["large"]
        run = await api.run("after, prints")
        assert (run["text"], run["stdout"], run["memory"]) == ("([1, 2], 0)", "", "restored")
        for name, reason in missing.items():
            assert f"{name} ({reason})" in run["memory_detail"]


async def test_a_file_larger_than_the_code_may_write_is_kept_but_for_what_is_large(api):
    await prepared(
        api, "import os; x = 1; large = os.urandom(1 << 21)", limits={"file_size": "1MiB"}
    )
    await sleep(api)
    restored, missing = await wake(api)
    assert restored == ["os", "x"]
    assert missing == {"large": "it could not be written: File too large"}


async def test_a_memory_that_ends_the_kernel_that_restores_it_is_lost(api):
    await prepared(api, BAD.replace("dies, ", "").replace("Dies(), ", ""), "x = DiesLater()")
    await api.run("del sleeps, hangs")
    await sleep(api)
    run = await api.run("'before' in globals()")
    assert (run["text"], run["memory"], run["exit_code"]) == ("False", "lost", 0)
    assert (
        run["memory_detail"]
        == "the session was asleep, and its memory is lost: the kernel died over it"
    )
    assert (await api.run("1"))["memory"] == "kept"


async def test_a_memory_that_hangs_the_kernel_that_restores_it_is_lost(make_settings):
    async with service(make_settings(sleep_save_timeout=0.4)) as api:
        await prepared(
            api,
            "import time\n"
            "def stop():\n"
            "    while True:\n"
            "        try: time.sleep(60)\n"
            "        except BaseException: pass\n"
            "class Stops:\n"
            "    def __reduce__(self): return (stop, ())\n"
            "class Slow:\n"
            "    def __reduce__(self): return (time.sleep, (60,))\n"
            "x, slow = 1, Slow()",
        )
        await sleep(api)
        _, missing = await wake(api)
        assert missing.keys() == {"slow"}
        assert missing["slow"].startswith("to read it takes more than")
        await api.run("stops = Stops()")
        await sleep(api)
        run = await api.run("'x' in globals()")
        assert (run["text"], run["memory"]) == ("False", "lost")
        assert "it took too long" in run["memory_detail"]


async def test_what_takes_half_of_what_a_session_may_use_is_read_without_a_copy(api):
    await api.create(limits={"memory": "192MiB"})
    await api.run("x, y = bytes(90 << 20), 'y' * (1 << 20)")
    await sleep(api)
    run = await api.run("x.count(0), y.count('y')")
    assert (run["text"], run["memory"]) == ("(94371840, 1048576)", "restored"), run


@pytest.mark.parametrize("kind", ["link", "FIFO", "directory"])
async def test_something_else_in_the_place_of_the_file_is_not_restored(
    api, memory_file, tmp_path, kind
):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    await prepared(api, "x = 1")
    await sleep(api)
    memory_file.unlink()
    make_trap(memory_file, kind, secret)
    run = await api.run("'x' in globals()")
    assert (run["text"], run["memory"]) == ("False", "lost")
    assert "its memory is lost" in run["memory_detail"]
    assert secret.read_text() == "secret"
    await sleep(api)
    assert (await api.run("1"))["memory"] == "restored"


async def test_a_damaged_file_gives_what_is_whole_and_one_that_is_none_an_empty_kernel(
    api, memory_file
):
    await prepared(api, "import os; x = 1; large = os.urandom(1 << 16)")
    await sleep(api)
    with memory_file.open("r+b") as file:
        content = file.read()
        file.seek(len(content) // 2)
        file.write(b"damage")
    restored, missing = await wake(api)
    assert (restored, missing) == (["os", "x"], {"large": "it is damaged in the file"})
    for damaged in (b"", content[:1000], b"nonsense" * 1000, content[:-1] + b"?"):
        await api.run("x = 1")
        await sleep(api)
        memory_file.write_bytes(damaged)
        run = await api.run("'x' in globals()")
        assert (run["text"], run["memory"]) == ("False", "lost")
        assert "damaged" in run["memory_detail"]


async def test_a_memory_of_an_earlier_sleep_is_not_restored(api, memory_file):
    await prepared(api, "x = 1")
    await sleep(api)
    earlier = memory_file.read_bytes()
    await api.run("x = 2")
    await sleep(api)
    memory_file.write_bytes(earlier)
    run = await api.run("'x' in globals()")
    assert (run["text"], run["memory"]) == ("False", "lost")
    assert "not the one that was written" in run["memory_detail"]


@pytest.mark.parametrize("how", ["restart", "death"])
async def test_a_kernel_that_is_replaced_takes_the_kept_memory_along(api, memory_file, how):
    await prepared(api, "x = 1", snapshots=False)
    await sleep(api)
    await wake(api)
    assert memory_file.exists()
    if how == "restart":
        await api.send("POST", "/api/sessions/s/restart")
    else:
        named("kernel")[0].kill()
        await eventually(lambda: not memory_file.exists())
    assert not memory_file.exists()
    await sleep(api)
    run = await api.run("'x' in globals()")
    assert (run["text"], run["memory"]) == ("False", "lost")
    assert ("restarted" if how == "restart" else "SIGKILL") in run["memory_detail"]


async def test_without_the_setting_sleep_loses_memory(make_settings, memory_file):
    async with service(make_settings(sleep_keeps_memory=False)) as api:
        await prepared(api, "x = 1")
        await sleep(api)
        assert not memory_file.exists()
        run = await api.run("'x' in globals()")
        assert (run["text"], run["memory"]) == ("False", "lost")
        assert run["memory_detail"] == "the session was asleep"


# ---- while it is saved, and when the service ends


async def test_a_run_that_comes_while_the_memory_is_saved_need_not_wait_for_that(api):
    await prepared(api, "import time\nclass Slow:\n    def __reduce__(self): time.sleep(60)\n"
                        "x, slow = 5, Slow()")  # fmt: skip
    sleeping = asyncio.create_task(api.send("POST", "/api/sessions/s/sleep"))

    await eventually(lambda: len(named("kernel")) == 2)
    run = await asyncio.wait_for(api.run("x"), 4)
    assert (run["text"], run["memory"]) == ("5", "kept")
    assert (await sleeping).status == 409
    await api.send("DELETE", "/api/sessions/s")


async def test_a_service_that_is_stopped_saves_within_the_time_that_it_has(make_settings):
    """By SIGTERM, while one session's run takes all the time there is."""
    settings = make_settings()
    with ServiceProcess(data_dir=settings.data_dir, drain_timeout=1.5, pool_max=0) as stopped:
        async with AsyncClient(base_url=stopped.url, timeout=30) as http:
            api = Api(http)
            await prepared(api, "x = 1")
            await api.create("busy")
            await api.run("y = 1", "busy")
            body = {"code": "while True: pass", "background": True}
            assert (await api.send("POST", "/api/sessions/busy/run", body)).status == 202
    async with service(settings) as api:
        run = await api.run("x")
        assert (run["text"], run["memory"]) == ("1", "restored")
        run = await api.run("'y' in globals()", "busy")
        assert (run["text"], run["memory"]) == ("False", "lost")


async def cancelled_before_it_began(api):
    """A run of the session `asleep`, which goes on to sleep."""
    body = {"code": "x = 2", "background": True}
    runs = "/api/sessions/asleep/runs"
    waking = asyncio.create_task(api.send("POST", "/api/sessions/asleep/wake"))
    queued = (await api.send("POST", "/api/sessions/asleep/run", body)).json["run_id"]
    cancelled = (await api.send("DELETE", f"{runs}/{queued}")).json
    assert (cancelled["status"], cancelled["started_at"]) == ("interrupted", None)
    assert (cancelled["memory"], cancelled["memory_detail"]) == (
        "restored",
        "the session was asleep",
    )
    assert (await waking).status == 200


async def test_a_service_that_is_killed_does_not_bring_an_older_memory_back(make_settings):
    settings = make_settings()
    with ServiceProcess(data_dir=settings.data_dir, pool_max=0) as killed:
        async with AsyncClient(base_url=killed.url, timeout=30) as http:
            api = Api(http)
            await prepared(api, "x = 1")
            await sleep(api)
            await api.create("asleep")
            await api.run("x = 1", "asleep")
            await api.send("POST", "/api/sessions/asleep/sleep")
            await cancelled_before_it_began(api)
            assert (await api.run("x += 1; x"))["text"] == "2"
            killed.kill()
    async with service(settings) as api:
        run = await api.run("'x' in globals()")
        assert (run["text"], run["memory"]) == ("False", "lost")
        run = await api.run("x", "asleep")
        assert (run["text"], run["memory"]) == ("1", "restored")

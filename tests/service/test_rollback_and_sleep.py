"""What a session has woken with outlives its kernel, and what was rolled back to is what sleeps."""

import asyncio

import pytest

from tests.support.named import named
from tests.support.snapshots import run_and_copy
from tests.support.waiting import eventually

IN_C = "import ctypes\nlibc = ctypes.PyDLL(None)\nwhile True: libc.sleep(60)"
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
ROLLED_BACK = "the memory is as after the last completed run"
SAVES_BADLY = {
    "dies": "import time; x = 1\nclass Slow:\n    def __reduce__(self): time.sleep(60)\n"
    "slow = Slow()",
    # It has the lock that everything in Python needs.
    "hangs": "import ctypes, os, threading, time; x = 1\ndef hang():\n"
    "    while not os.path.exists('go'): time.sleep(0.01)\n"
    "    os.close(os.open('hangs', os.O_CREAT)); ctypes.PyDLL(None).sleep(60)\n"
    "threading.Thread(target=hang).start()",
}


@pytest.fixture
def server(serve):
    return serve(sleep_save_timeout=1)


async def sleep(api):
    answer = await api.send("POST", "/api/sessions/s/sleep")
    assert (answer.status, answer.json["state"]) == (200, "sleeping"), answer


async def test_a_session_that_times_out_in_its_first_run_after_sleep_has_what_it_woke_with(api):
    await api.create()
    await api.run("import random; random.seed(1); n = (i for i in [1]); x = [1]; random.seed(4)")
    await sleep(api)
    run = await api.run(f"x.append(2); random.seed(2)\n{IN_C}", timeout=0.3)
    assert (run["exit_code"], run["memory"]) == (124, "restored")
    detail = run["memory_detail"]
    assert detail.startswith("the session was asleep; not restored: n ("), detail
    assert detail.endswith(f"; the run timed out and its kernel was replaced: {ROLLED_BACK}")
    run = await api.run("x, random.random() == random.Random(4).random(), _i1[:6]")
    assert (run["text"], run["memory"]) == ("([1], True, 'import')", "kept")
    assert (await api.session())["restored"] == ["random", "x"]
    # What sleeps next is what was rolled back to, and what has been done since.
    await api.run("x.append(3)")
    assert (await api.run(f"x.append(4)\n{KILL}"))["memory"] == "restored"
    await sleep(api)
    run = await api.run("x")
    assert (run["text"], run["memory"]) == ("[1, 3]", "restored")
    assert run["memory_detail"].startswith("the session was asleep")


async def test_a_kernel_that_dies_between_waking_and_the_first_run_is_restored(api, server):
    await api.create()
    await api.run("x = 1")
    await sleep(api)
    await api.send("POST", "/api/sessions/s/wake")
    await eventually(lambda: len(named("snapshot")) == 1)
    named("kernel")[0].kill()
    memory = server.service._live["s"]._memory
    await eventually(lambda: "SIGKILL" in memory.change.detail)
    run = await api.run("x")
    assert (run["text"], run["memory"]) == ("1", "restored"), run
    assert run["memory_detail"] == (
        "the session was asleep; the kernel was killed by signal 9 (SIGKILL) between runs and was "
        f"replaced: {ROLLED_BACK}"
    )
    assert (await api.run("x"))["memory"] == "kept"


async def test_a_kernel_that_is_found_dead_by_sleep_or_a_copy_is_saved_from_its_snapshot(api):
    await api.create()
    for number, ask in enumerate(["sleep", "duplicate"]):
        await run_and_copy(api, f"x = {number}")
        named("kernel")[0].kill()
        answer = await api.send("POST", f"/api/sessions/s/{ask}", {} if number == 1 else None)
        assert answer.status in (200, 201), answer
        if ask == "duplicate":
            copy = answer.json["id"]
            run = await api.run("x", copy)
            assert (run["text"], run["memory"]) == ("1", "restored")
            await api.send("DELETE", f"/api/sessions/{copy}")
        run = await api.run("x")
        assert (run["text"], run["memory"]) == (str(number), "restored"), (ask, run)


@pytest.mark.parametrize("how", SAVES_BADLY)
async def test_a_kernel_that_dies_or_hangs_while_it_saves_loses_nothing(api, how, monkeypatch):
    monkeypatch.setattr("kernelsvc.sessions.memory._PATIENCE", 0.5)
    await api.create()
    await run_and_copy(api, SAVES_BADLY[how])
    if how == "hangs":
        await api.http.put("/api/sessions/s/files/go", content=b"")

        async def hangs():
            return (await api.http.get("/api/sessions/s/files/hangs")).is_success

        await eventually(hangs)
    sleeping = asyncio.create_task(api.send("POST", "/api/sessions/s/sleep"))
    if how == "dies":
        await eventually(lambda: len(named("kernel")) == 2)
        named("kernel")[0].kill()
    assert (await sleeping).status == 200
    run = await api.run("x")
    assert (run["text"], run["memory"]) == ("1", "restored"), run


async def test_a_kernel_that_an_interrupt_ends_is_restored(api):
    await api.create()
    await api.run("import os, signal, time; x = 1")
    end = "signal.signal(signal.SIGINT, lambda *_: os._exit(3))"
    body = {"code": f"{end}; x = 2; print('ready'); time.sleep(60)", "background": True}
    run_id = (await api.send("POST", "/api/sessions/s/run", body)).json["run_id"]

    async def shown():
        return (await api.send("GET", f"/api/sessions/s/runs/{run_id}?wait=0")).json

    async def is_ready():
        return "ready" in (await shown())["stdout"]

    async def ended():
        run = await shown()
        return run if run["status"] != "running" else None

    await eventually(is_ready)
    await api.send("POST", "/api/sessions/s/interrupt")
    run = await eventually(ended)
    assert (run["exit_code"], run["memory"]) == (3, "restored"), run
    assert (await api.run("x"))["text"] == "1"

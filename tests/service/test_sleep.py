"""Sleep: idle sessions give up their kernels, nothing else, and wake when they are needed."""

import asyncio
import time

import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.inside import process_inside
from tests.support.problems import problem_of, raw
from tests.support.waiting import eventually

PIDS = "import os; print(os.getpid(), os.getppid())"


async def kernel_of(api, session_id="s"):
    """The session's kernel and its host."""
    run = await api.run(PIDS, session_id)
    return [process_inside(pid) for pid in run["stdout"].split()]


async def until(api, state, session_id="s", seconds=10.0):
    async def is_so():
        return (await api.session(session_id))["state"] == state

    await eventually(is_so, seconds)


async def sleeps_on(api, session_id="s"):
    """Asserts that the session sleeps, and that nothing wakes it behind our back."""
    for _ in range(30):
        assert (await api.session(session_id))["state"] == "sleeping"
        await asyncio.sleep(0.01)


async def held(tmp_path, name="go", session_id="s"):
    """Let go of a run that waits for a file."""
    (tmp_path / "data" / "workspaces" / session_id / name).touch()


WAIT = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nos.remove('go')\n"


# ---- by itself


async def test_an_idle_session_falls_asleep_and_its_processes_are_gone(api):
    await api.create(sleep_after=0.3)
    processes = await kernel_of(api)
    await until(api, "sleeping")
    await eventually(lambda: not any(process.is_running() for process in processes))
    await sleeps_on(api)


async def test_it_sleeps_no_sooner_than_asked_after_its_last_activity(api):
    await api.create(sleep_after=0.6)
    await api.run("1")
    began = time.monotonic()
    await until(api, "sleeping")
    assert 0.5 < time.monotonic() - began < 5


async def test_a_session_that_never_ran_falls_asleep_too(api):
    await api.create(sleep_after=0.3)
    await until(api, "idle")
    await until(api, "sleeping")
    run = await api.run("1")
    assert run["memory"] == "kept"


async def test_activity_puts_sleep_off(api):
    await api.create(sleep_after=0.8)
    processes = await kernel_of(api)
    began = time.monotonic()
    while time.monotonic() - began < 1.6:
        assert (await api.run("1"))["memory"] == "kept"
        await asyncio.sleep(0.1)
    assert all(process.is_running() for process in processes)


async def test_looking_at_a_session_does_not_put_sleep_off(api):
    await api.create(sleep_after=0.4)
    await api.run("1")
    await until(api, "sleeping", seconds=3)


async def test_it_never_sleeps_during_a_run_or_a_queued_one(api, tmp_path):
    await api.create(sleep_after=0.1)
    first = asyncio.create_task(api.run(WAIT + "kept = 1"))
    await until(api, "running")
    second = asyncio.create_task(api.run(WAIT + "print(kept)"))
    for _ in range(50):
        assert (await api.session())["state"] == "running"
        await asyncio.sleep(0.01)
    await held(tmp_path)
    assert (await first)["exit_code"] == 0
    await held(tmp_path)
    run = await second
    assert (run["stdout"], run["memory"]) == ("1\n", "kept")
    await until(api, "sleeping")


async def test_a_run_that_comes_as_it_falls_asleep_is_answered_all_the_same(api):
    await api.create(sleep_after=0.05)
    for number in range(5):
        run = await api.run(f"print({number})")
        assert (run["stdout"], run["exit_code"]) == (f"{number}\n", 0)
        await asyncio.sleep(0.03 * number)


async def test_the_services_sleep_after_holds_where_a_session_has_none(make_settings):
    async with (
        serving(make_settings(sleep_after=0.3)) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        api = Api(http)
        assert (await api.create("short"))["sleep_after"] == 0.3
        await api.create("never", sleep_after="never")
        await api.create("long", sleep_after=60)
        for name in ("short", "never", "long"):
            await api.run("1", name)
        await until(api, "sleeping", "short")
        assert (await api.session("never"))["state"] == "idle"
        assert (await api.session("long"))["state"] == "idle"
        assert (await api.session("never"))["sleep_after"] == "never"


async def test_of_several_sessions_each_sleeps_in_its_own_time(api):
    await api.create("late", sleep_after=1.2)
    await api.create("early", sleep_after=0.2)
    await asyncio.gather(api.run("1", "late"), api.run("1", "early"))
    await until(api, "sleeping", "early")
    assert (await api.session("late"))["state"] == "idle"
    await until(api, "sleeping", "late")


# ---- by PATCH


async def test_a_patched_sleep_after_is_effective_at_once(api):
    await api.create(sleep_after=600)
    await api.run("1")
    await api.send("PATCH", "/api/sessions/s", {"sleep_after": 0.2})
    await until(api, "sleeping", seconds=5)


async def test_a_session_patched_to_never_stays_awake(api):
    await api.create(sleep_after=0.4)
    processes = await kernel_of(api)
    await api.send("PATCH", "/api/sessions/s", {"sleep_after": "never"})
    await asyncio.sleep(0.8)
    assert (await api.session())["state"] == "idle"
    assert all(process.is_running() for process in processes)


async def test_a_patch_during_a_run_counts_from_its_end(api, tmp_path):
    await api.create(sleep_after="never")
    run = asyncio.create_task(api.run(WAIT))
    await until(api, "running")
    await api.send("PATCH", "/api/sessions/s", {"sleep_after": 0.2})
    await held(tmp_path)
    assert (await run)["exit_code"] == 0
    await until(api, "sleeping")


async def test_a_patch_of_a_sleeping_session_does_not_wake_it(api):
    await api.create()
    await api.send("POST", "/api/sessions/s/sleep")
    await api.send("PATCH", "/api/sessions/s", {"default_timeout": 5, "data": {"a": 1}})
    await sleeps_on(api)
    assert (await api.run("1"))["data"] == {"a": 1}


# ---- on request


async def test_sleep_on_request_ends_the_kernel_before_it_answers(api):
    await api.create()
    processes = await kernel_of(api)
    answer = await api.send("POST", "/api/sessions/s/sleep")
    assert (answer.status, answer.json["state"]) == (200, "sleeping")
    assert not any(process.is_running() for process in processes)
    assert answer.json == await api.session()
    await sleeps_on(api)


async def test_sleep_right_after_creation_sleeps(api):
    await api.create()
    answer = await api.send("POST", "/api/sessions/s/sleep")
    assert answer.json["state"] == "sleeping"
    await sleeps_on(api)


async def test_sleep_of_a_sleeping_session_is_fine(api):
    await api.create()
    for _ in range(3):
        answer = await api.send("POST", "/api/sessions/s/sleep")
        assert (answer.status, answer.json["state"]) == (200, "sleeping")


async def test_sleep_during_a_run_is_409_and_the_run_goes_on(api, tmp_path):
    await api.create()
    run = asyncio.create_task(api.run(WAIT + "print('done')"))
    await until(api, "running")
    problem_of(await raw(api, "POST", "/api/sessions/s/sleep", ""), 409, "session_busy")
    await held(tmp_path)
    assert (await run)["stdout"] == "done\n"
    assert (await api.session())["state"] == "idle"


async def test_sleep_at_the_moment_of_a_run_does_one_of_the_two(api):
    await api.create()
    for number in range(3):
        run, slept = await asyncio.gather(
            api.run(f"print({number})"), raw(api, "POST", "/api/sessions/s/sleep", "")
        )
        assert run["stdout"] == f"{number}\n"
        assert slept.status_code in (200, 409)


async def test_exit_handlers_of_the_code_run_before_sleep(api):
    await api.create(data={"saved": False})
    await api.run(
        "import atexit, json\n"
        "_ = atexit.register(lambda: json.dump({'saved': True}, open('.session_data.json', 'w')))"
    )
    await api.send("POST", "/api/sessions/s/sleep")
    assert (await api.session())["data"] == {"saved": True}


async def test_children_of_the_code_are_gone_when_it_sleeps(api):
    await api.create()
    run = await api.run(
        "import subprocess\nprint(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)\n"
    )
    child = process_inside(run["stdout"].strip())
    assert child.is_running()
    await api.send("POST", "/api/sessions/s/sleep")
    assert not child.is_running()


# ---- waking


@pytest.mark.parametrize("woken", [False, True])
async def test_the_next_run_says_that_memory_is_restored_and_the_rest_is_there_too(api, woken):
    before = await api.create(data={"a": 1}, metadata={"m": 2}, default_timeout=44, env={"E": "x"})
    first = await api.run("x = 1; open('file', 'w').write('content')")
    await api.send("POST", "/api/sessions/s/sleep")
    if woken:
        answer = await api.send("POST", "/api/sessions/s/wake")
        assert (answer.status, answer.json["state"]) == (200, "idle")
    run = await api.run(
        "import os; print(x, open('file').read(), os.environ['E'],"
        " open('.session_data.json').read())"
    )
    assert run["stdout"] == '1 content x {"a": 1}\n'
    assert run["memory"] == "restored"
    assert run["memory_detail"] == "the session was asleep"
    assert run["execution_count"] == 2
    after = await api.session()
    assert after["run_count"] == 2
    unchanged = ("id", "created_at", "data", "metadata", "default_timeout", "env", "sleep_after")
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}
    history = (await api.send("GET", "/api/sessions/s/runs")).json["runs"]
    assert [entry["run_id"] for entry in history] == [run["run_id"], first["run_id"]]
    again = await api.run("2")
    assert (again["memory"], again["memory_detail"]) == ("kept", None)


async def test_wake_starts_a_kernel_and_waking_twice_keeps_it(api):
    await api.create()
    await api.send("POST", "/api/sessions/s/sleep")
    for _ in range(2):
        answer = await api.send("POST", "/api/sessions/s/wake")
        assert (answer.status, answer.json["state"]) == (200, "idle")
    processes = await kernel_of(api)
    await api.send("POST", "/api/sessions/s/wake")
    assert await kernel_of(api) == processes


async def test_wake_and_run_at_once_wake_it_once(api):
    await api.create()
    await api.send("POST", "/api/sessions/s/sleep")
    wakes = [api.send("POST", "/api/sessions/s/wake") for _ in range(3)]
    *answers, run = await asyncio.gather(*wakes, api.run(PIDS))
    assert {answer.status for answer in answers} == {200}
    assert run["stdout"] == (await api.run(PIDS))["stdout"]


async def test_a_session_woken_and_left_alone_falls_asleep_again(api):
    await api.create(sleep_after=0.3)
    await until(api, "idle")
    await api.send("POST", "/api/sessions/s/sleep")
    await api.send("POST", "/api/sessions/s/wake")
    await until(api, "sleeping")


async def test_a_sleeping_session_can_be_deleted(api, tmp_path):
    await api.create()
    await api.run("open('file', 'w').close()")
    await api.send("POST", "/api/sessions/s/sleep")
    assert (await api.send("DELETE", "/api/sessions/s")).status == 200
    assert list((tmp_path / "data" / "workspaces").iterdir()) == []


async def test_interrupt_of_a_sleeping_session_does_not_wake_it(api):
    await api.create()
    await api.send("POST", "/api/sessions/s/sleep")
    assert (await api.send("POST", "/api/sessions/s/interrupt")).status == 200
    await sleeps_on(api)


async def test_late_output_is_kept_with_its_run_when_the_session_sleeps(api):
    await api.create()
    run = await api.run(
        "import threading\n"
        "go = threading.Event()\n"
        "def work(): go.wait(); print('late'); done.set()\n"
        "done = threading.Event()\n"
        "threading.Thread(target=work).start()"
    )
    await api.run("go.set(); _ = done.wait()")
    await api.send("POST", "/api/sessions/s/sleep")
    found = await api.send("GET", f"/api/sessions/s/runs/{run['run_id']}")
    assert found.json["background"] == "late\n"

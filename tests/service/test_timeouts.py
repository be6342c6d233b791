"""The ladder: whatever the code does, its time is enforced, and the next run works."""

import asyncio
import time

import psutil
import pytest

from tests.support.inside import process_inside
from tests.support.named import named
from tests.support.snapshots import run_and_copy
from tests.support.waiting import eventually

# What each case leaves running or refuses to be interrupted by; `{mark}` is in the command line of
# every process that it starts, so that one left over is found.
CASES = {
    "sleeps": "import time; print('said'); time.sleep(60)",
    "loops": "print('said')\nwhile True: pass",
    "hashes in C": (
        "import hashlib; print('said'); hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"
    ),
    "sleeps in C": (
        "import ctypes; print('said')\nlibc = ctypes.PyDLL(None)\nwhile True: libc.sleep(60)"
    ),
    "swallows the interrupt": (
        "import time; print('said')\n"
        "while True:\n"
        "    try: time.sleep(60)\n"
        "    except KeyboardInterrupt: print('swallowed')"
    ),
    "swallows everything": (
        "import time, signal; print('said')\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n"
        "    try: time.sleep(60)\n"
        "    except BaseException: pass"
    ),
    "awaits": "import asyncio; print('said'); await asyncio.sleep(60)",
    "awaits and swallows": (
        "import asyncio; print('said')\n"
        "while True:\n"
        "    try: await asyncio.sleep(60)\n"
        "    except asyncio.CancelledError: pass"
    ),
    "awaits, then blocks": (
        "import asyncio, time; print('said'); await asyncio.sleep(0); time.sleep(60)"
    ),
    "prints for ever": "while True: print('said')",
    "waits for a child": "import subprocess; print('said'); subprocess.run(['sleep', '{mark}'])",
    "has a child that ignores signals": (
        "import subprocess, time; print('said')\n"
        "subprocess.Popen(['sh', '-c', 'trap \"\" INT TERM; sleep {mark}; sleep {mark}'])\n"
        "time.sleep(60)"
    ),
    "has a child in a session of its own": (
        "import subprocess, time; print('said')\n"
        "subprocess.Popen(['sh', '-c', 'trap \"\" INT TERM HUP; sleep {mark} & wait'],"
        " start_new_session=True)\n"
        "time.sleep(60)"
    ),
    "has a daemon by double fork": (
        "import os, time; print('said')\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: os.execvp('sleep', ['sleep', '{mark}'])\n"
        "    os._exit(0)\n"
        "time.sleep(60)"
    ),
    "has threads": (
        "import threading, time; print('said')\n"
        "for _ in range(4): threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "time.sleep(60)"
    ),
}

HARD = {
    "hashes in C",
    "swallows the interrupt",
    "swallows everything",
    "awaits and swallows",
}


def processes_marked(mark):
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and mark in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def new_mark():
    # An argument for sleep that no other test uses: seconds, and where in time this test ran.
    return f"1000.{time.monotonic_ns()}"


@pytest.mark.parametrize("case", CASES)
async def test_time_is_enforced_and_the_next_run_sent_meanwhile_works(api, case):
    await api.create()
    await api.run("before = 1")
    mark = new_mark()
    running = asyncio.create_task(api.run(CASES[case].replace("{mark}", mark), timeout=1))
    await api.until_running()
    following = asyncio.create_task(api.run("'before' in globals()"))
    run = await running
    assert run["exit_code"] == 124
    assert run["timed_out"] is True
    assert run["status"] == "timed_out"
    assert run["stdout"].startswith("said\n")
    assert run["memory"] == "restored"
    assert "timed out" in run["memory_detail"]
    assert processes_marked(mark) == []
    after = await following
    assert (after["exit_code"], after["text"], after["memory"]) == (0, "True", "kept")


@pytest.mark.parametrize("case", CASES)
async def test_interrupt_keeps_the_memory_where_it_was_enough_and_tells_where_not(api, case):
    await api.create(on_timeout="interrupt")
    await api.run("before = 1")
    mark = new_mark()
    run = await api.run(CASES[case].replace("{mark}", mark), timeout=1)
    assert run["exit_code"] == 124
    assert run["stdout"].startswith("said\n")
    assert run["memory"] == ("restored" if case in HARD else "kept")
    assert processes_marked(mark) == []
    after = await api.run("'before' in globals()")
    assert (after["exit_code"], after["text"], after["memory"]) == (0, "True", "kept")


async def test_sigterm_handler_that_hangs_is_killed(api):
    await api.create()
    run = await api.run(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: time.sleep(60))\n"
        "time.sleep(60)",
        timeout=0.5,
    )
    assert (run["exit_code"], run["memory"]) == (124, "lost")
    assert (await api.run("1"))["exit_code"] == 0


HOG = "import asyncio, time; asyncio.get_running_loop().call_soon(time.sleep, 2); None"


async def test_timeout_does_not_count_what_an_earlier_run_still_does_in_its_kernel(api):
    await api.create()
    await api.run(HOG)
    run = await api.run("print('done')", timeout=1)
    assert (run["exit_code"], run["stdout"]) == (0, "done\n")
    assert float(run["duration"][:-1]) > 1


async def test_an_interrupt_before_the_kernel_begins_with_a_run_reaches_it_when_it_does(api):
    await api.create()
    await api.run(HOG)
    running = asyncio.create_task(api.run("time.sleep(30)", timeout=25))
    await api.until_running()
    await api.send("POST", "/api/sessions/s/interrupt")
    run = await running
    assert (run["exit_code"], run["memory"]) == (130, "kept")
    assert float(run["duration"][:-1]) < 8


async def test_a_call_that_did_not_hear_of_an_interrupt_is_ended_by_another_signal(api):
    await api.create()
    code = (
        "import signal, time; got = []\n"
        "signal.signal(signal.SIGURG, lambda *_: got.append(1))\n"
        "try:\n    print('begun', flush=True)\n    time.sleep(30)\n"
        "except KeyboardInterrupt: end = time.time() + 20\n"
        "while not got and time.time() < end: time.sleep(0.01)\nprint(got)"
    )
    body = {"code": code, "background": True}
    run_id = (await api.send("POST", "/api/sessions/s/run", body)).json["run_id"]

    async def said(text):
        return (await api.send("GET", f"/api/sessions/s/runs/{run_id}")).json["stdout"] == text

    await eventually(lambda: said("begun\n"))
    await api.send("POST", "/api/sessions/s/interrupt")
    await eventually(lambda: said("begun\n[1]\n"))


async def test_an_interrupt_right_at_the_begin_of_a_run_is_not_lost(api):
    await api.create()
    await api.run("before = 1")
    for _ in range(40):
        run = await api.run("while True: pass", timeout=1e-6, on_timeout="interrupt")
        assert (run["exit_code"], run["memory"]) == (124, "kept")
        assert run["error"]["ename"] == "KeyboardInterrupt", run
    assert (await api.run("before"))["text"] == "1"


async def test_interrupt_by_the_caller_is_130_and_keeps_the_memory(api):
    await api.create()
    await api.run("before = 1")
    for code in ("import time; time.sleep(60)", "import asyncio; await asyncio.sleep(60)"):
        running = asyncio.create_task(api.run(code))
        await api.until_running()
        answer = await api.send("POST", "/api/sessions/s/interrupt")
        assert answer.status == 200
        run = await running
        assert (run["exit_code"], run["status"], run["memory"]) == (130, "interrupted", "kept")
        assert run["timed_out"] is False
    assert (await api.run("before"))["text"] == "1"


async def test_restart_during_a_run_ends_it_with_130(api):
    await api.create()
    code = "import time; print('said'); open('said', 'w').close(); time.sleep(60)"
    running = asyncio.create_task(api.run(code))

    async def has_said():
        return (await api.session())["file_count"] == 1

    await eventually(has_said)
    following = asyncio.create_task(api.run("'time' in globals()"))
    assert (await api.send("POST", "/api/sessions/s/restart")).status == 200
    run = await running
    assert (run["exit_code"], run["status"], run["memory"]) == (130, "interrupted", "lost")
    assert run["stdout"] == "said\n"
    assert (await following)["text"] == "False"


async def test_delete_during_a_run_ends_everything(api, server):
    await api.create()
    mark = new_mark()
    running = asyncio.create_task(
        api.run(f"import subprocess; subprocess.run(['sleep', '{mark}'])")
    )
    await eventually(lambda: processes_marked(mark))
    queued = asyncio.create_task(api.send("POST", "/api/sessions/s/run", {"code": "1"}))
    answer = await api.send("DELETE", "/api/sessions/s")
    assert answer.status == 200
    assert processes_marked(mark) == []
    run = await running
    assert (run["exit_code"], run["memory"]) == (130, "lost")
    assert (await queued).status == 404
    assert (await api.send("GET", "/api/sessions/s")).status == 404


@pytest.mark.parametrize("moment", ["idle", "starting"])
async def test_a_kernel_that_is_killed_between_runs_is_replaced_and_the_answer_says_so(
    api, server, moment
):
    await api.create()
    if moment == "idle":
        pid = int((await run_and_copy(api, "before = 1; import os; os.getpid()"))["text"])
        process_inside(pid).kill()
        await eventually(lambda: server.service._live["s"]._memory.change)
    else:
        hosts = await eventually(lambda: named("kernel-host"))
        hosts[0].kill()
    run = await api.run("'before' in globals()")
    assert (run["exit_code"], run["text"]) == (0, str(moment == "idle"))
    if moment == "idle":
        assert run["memory"] == "restored"
        assert "SIGKILL" in run["memory_detail"]


async def test_a_host_that_is_killed_takes_its_kernel_along_and_is_replaced(api):
    await api.create()
    pids = (await api.run("import os; print(os.getpid(), os.getppid())"))["stdout"].split()
    kernel, host = (process_inside(pid) for pid in pids)
    running = asyncio.create_task(api.run("import time; time.sleep(60)"))
    await api.until_running()
    host.kill()
    run = await running
    assert (run["exit_code"], run["memory"]) == (137, "lost")
    await eventually(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)
    assert (await api.run("1"))["exit_code"] == 0


async def test_a_host_that_is_stopped_does_not_stop_the_ladder(api, monkeypatch):
    monkeypatch.setattr("kernelsvc.kernels.ladder._KILL_SECONDS", 0.5)
    await api.create()
    host = process_inside((await api.run("import os; os.getppid()"))["text"])
    host.suspend()
    run = await api.run("while True: pass", timeout=0.5)
    assert (run["exit_code"], run["memory"]) == (124, "lost")
    assert (await api.run("1"))["exit_code"] == 0

"""POST /api/sessions/{id}/fork: live copies, independent from then on."""

import json
import os
from pathlib import Path

import psutil
import pytest

from kernelsvc.kernels.kernel import Kernel
from tests.support.files import get, paths, put
from tests.support.named import named
from tests.support.problems import everything, fields_of, problem_of, raw
from tests.support.waiting import eventually

PATH = "/api/sessions/s/fork"
CANNOT_BE_PICKLED = """
import random, sys, threading
numbers = iter([1, 2, 3]); next(numbers)
lines = open('lines.txt'); lines.readline()
def here():
    yield from range(10)
generator = here(); next(generator)
counter = 41
random.seed(1)
"""


def snapshots_of(kernel):
    return [each.pid for each in named("snapshot", psutil.Process(kernel))]


async def fork(api, session_id="s", status=201, **body):
    answer = await api.send("POST", f"/api/sessions/{session_id}/fork", body or None)
    assert answer.status == status, answer.json
    return answer.json


async def test_copies_have_what_no_file_could_keep_and_are_independent(api):
    await api.create(data={"n": 1}, metadata={"m": 1})
    await put(api, "lines.txt", b"one\ntwo\nthree\n")
    await api.run(CANNOT_BE_PICKLED)
    await api.run("await_me = 1; 'second'")

    made = await fork(api, session_ids=["a", "b"])
    assert made["source_session_id"] == "s"
    assert [copy["id"] for copy in made["sessions"]] == ["a", "b"]
    for copy in made["sessions"]:
        assert (copy["run_count"], copy["data"], copy["metadata"]) == (2, {"n": 1}, {"m": 1})

    use = "counter += {}; print(counter, next(numbers), next(generator), lines.readline(), end='')"
    for number, name in enumerate(["a", "b"], start=1):
        run = await api.run(use.format(number), name)
        assert run["stdout"] == f"{41 + number} 2 1 two\n"
        assert run["memory"] == "restored"
        assert run["memory_detail"] == "the session is a copy of s, with its memory"
        assert run["execution_count"] == 3
        assert (await api.run("counter", name))["memory"] == "kept"
    await api.run("open('lines.txt', 'w').write('changed'); open('new', 'w').write('x')", "a")
    run = await api.run(use.format(0))
    assert (run["stdout"], run["memory"]) == ("41 2 1 two\n", "kept")
    assert (await get(api, "lines.txt")).content == b"one\ntwo\nthree\n"
    assert await paths(api, "b") == ["lines.txt"]

    # The copies' random numbers are their own.
    drawn = {(await api.run("random.random()", name))["text"] for name in ("s", "a", "b")}
    assert len(drawn) == 3

    # Each ends by itself; the others live on.
    await api.send("DELETE", "/api/sessions/s")
    assert (await api.run("counter", "a"))["text"] == "42"
    run = await api.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "a")
    assert (run["exit_code"], run["memory"]) == (137, "restored")
    assert (await api.run("counter", "a"))["text"] == "42"
    await api.send("POST", "/api/sessions/a/sleep")
    run = await api.run("counter", "a")
    assert (run["text"], run["memory"]) == ("42", "restored")
    assert (await api.run("counter", "b"))["text"] == "43"
    await api.send("DELETE", "/api/sessions/b")


async def test_copies_have_the_history_settings_and_stored_code_and_can_be_copied_themselves(api):
    await api.create(env={"E": "x"}, default_timeout=33)
    await api.send("PUT", "/api/sessions/s/code", {"code": "print('stored')"})
    await api.run("print('first')")
    await api.run("x = 1; print('second')")
    (copy,) = (await fork(api, session_ids=["a"]))["sessions"]
    assert (copy["env"], copy["default_timeout"], copy["state"]) == ({"E": "x"}, 33, "idle")
    (second,) = (await fork(api, "a"))["sessions"]
    ids = set()
    for name in ("s", "a", second["id"]):
        runs = (await api.send("GET", f"/api/sessions/{name}/runs")).json["runs"]
        assert [run["code"] for run in runs] == ["x = 1; print('second')", "print('first')"]
        whole = await api.send("GET", f"/api/sessions/{name}/runs/{runs[0]['run_id']}")
        assert (whole.json["stdout"], whole.json["session_id"]) == ("second\n", name)
        ids |= {run["run_id"] for run in runs}
    assert len(ids) == 6
    assert (await api.run("print(x, In[1])", second["id"]))["stdout"] == "1 print('first')\n"
    assert (await api.send("POST", "/api/sessions/a/run", {})).json["stdout"] == "stored\n"


async def test_a_copy_is_under_its_own_limits_and_a_new_kernel_of_it_in_its_own_sandbox(
    api, server
):
    await api.create(limits={"memory": "1GiB"})
    await api.run("x = 1")
    await fork(api, session_ids=["a"])
    copy = server.service._live["a"]
    waiting = await eventually(lambda: snapshots_of(copy._slot.pid()))
    for path in copy.seat.enclosure.group_files:
        assert set(map(str, waiting)) <= set(Path(path).read_text().split())
    look = "import os; print(sorted(int(pid) for pid in os.listdir('/proc') if pid.isdigit()))"
    kernels = {}
    for name in ("s", "a"):
        await api.run("1", name)
        seat = server.service._live[name].seat
        pids = {path: Path(path).read_text().split() for path in seat.enclosure.group_files}
        kernels[name] = str(server.service._live[name]._slot.pid())
        assert all(kernels[name] in of_group for of_group in pids.values())
    assert kernels["s"] != kernels["a"]
    inside = [json.loads((await api.run(look, name))["stdout"]) for name in ("s", "a")]
    assert len(set(inside[0]) & set(inside[1])) > 3

    run = await api.run("import time; time.sleep(30)", "a", timeout=0.3)
    assert (run["exit_code"], run["memory"]) == (124, "restored")
    assert (await api.run("x", "a"))["text"] == "1"
    run = await api.run("b = bytearray(1 << 31)", "a")
    # Without control groups it is the allocation that fails.
    is_grouped = server.service._live["a"].seat.enclosure.cgroup is not None
    assert (run["exit_code"], run["memory"]) == ((137, "restored") if is_grouped else (1, "kept"))
    assert (await api.run("x"))["memory"] == "kept"
    await api.send("POST", "/api/sessions/a/restart")
    assert (await api.run("1", "a"))["memory"] == "lost"
    alone = json.loads((await api.run(look, "a"))["stdout"])
    assert len(alone) < len(inside[1])


CANNOT_BE_CARRIED = """
import socket, subprocess, tempfile, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
here, there = socket.socketpair()
child = subprocess.Popen(["sleep", "600"])
scratch = open("/tmp/scratch", "w")
x = 1
"""


async def test_what_no_copy_has_is_said(api):
    await api.create()
    await api.run(CANNOT_BE_CARRIED)
    await fork(api, session_ids=["a", "b"])
    run = await api.run("x, child.poll(), here.recv(1)", "a")
    assert run["text"] == "(1, 0, b'')"
    why = "the session is a copy of s, with its memory, without "
    lost = "1 thread, 2 sockets, 1 child process and 1 open file"
    assert run["memory_detail"] == why + lost
    # What waits in the copy's place has not got more than the copy had.
    run = await api.run("import os; os._exit(1)", "b")
    assert run["memory"] == "restored"
    assert run["memory_detail"].endswith(f"as after the last completed run, without {lost}")
    run = await api.run("child.poll(), threading.active_count()")
    assert (run["text"], run["memory"]) == ("(None, 2)", "kept")


async def test_random_numbers_go_on_as_the_source_s_where_they_are_not_reseeded(api):
    await api.create()
    await api.run("import random; random.seed(7)")
    await fork(api, session_ids=["same"], reseed=False)
    await fork(api, session_ids=["own"])
    drawn = [(await api.run("random.random()", name))["text"] for name in ("s", "same", "own")]
    assert drawn[0] == drawn[1] != drawn[2]


async def test_random_numbers_are_as_for_the_copy_where_its_first_run_is_its_kernel_s_end(api):
    await api.create()
    await api.run("import os, random; random.seed(7)")
    await fork(api, session_ids=["same"], reseed=False)
    await fork(api, session_ids=["own"])
    drawn = {"s": (await api.run("random.random()"))["text"]}
    for name in ("same", "own"):
        assert (await api.run("os._exit(1)", name))["memory"] == "restored"
        drawn[name] = (await api.run("random.random()", name))["text"]
    assert drawn["s"] == drawn["same"] != drawn["own"]


async def test_a_session_that_sleeps_or_has_no_snapshots_is_copied_by_what_sleep_keeps(api):
    await api.create()
    await api.run("x = 1")
    await api.send("POST", "/api/sessions/s/sleep")
    await fork(api, session_ids=["a", "b"])
    for name in ("a", "b", "s"):
        run = await api.run("x", name)
        assert (run["text"], run["memory"]) == ("1", "restored")
    await api.create("sh", language="bash")
    await api.run("x=1; echo > made", "sh")
    await fork(api, "sh", session_ids=["sh2"])
    run = await api.run("echo [$x] *", "sh2")
    assert (run["stdout"], run["memory"]) == ("[] made\n", "lost")


async def test_all_copies_come_to_be_or_none(api, server):
    await api.create()
    await api.create("taken")
    for name in ("s", "taken"):
        await api.run("x = 1", name)
    before = await everything(api)
    refused = await raw(api, "POST", PATH, '{"session_ids": ["a", "taken"]}')
    problem_of(refused, 409, "session_exists")
    for body, field in BAD:
        problem = problem_of(await raw(api, "POST", PATH, body), 400, "invalid_request")
        assert fields_of(problem) == [field], body
    problem_of(await raw(api, "POST", "/api/sessions/none/fork", ""), 404, "session_not_found")
    assert await everything(api) == before

    # There is no such snapshot.
    async def none(*_):
        return "none"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Kernel, "snapshot", none)
        answer = problem_of(await raw(api, "POST", PATH, ""), 503, "kernel_start_failed")
    assert "none had been taken by then" in answer["error"]

    # The second copy is gone by the time that it would be a kernel.
    seats = iter([False, True])

    async def copy(launcher, seat, kernelspec, on_late, process, *, reseed):
        if next(seats):
            process.kill()
        return await real(launcher, seat, kernelspec, on_late, process, reseed=reseed)

    launcher = type(server.service._parts.launcher)
    real = launcher.copy
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(launcher, "copy", copy)
        answer = problem_of(
            await raw(api, "POST", PATH, '{"session_ids": ["a", "b"]}'), 503, "kernel_start_failed"
        )
    assert "no snapshot" not in answer["error"]
    ids = {each["id"] for each in (await api.send("GET", "/api/sessions")).json["sessions"]}
    assert ids == {"s", "taken"}
    assert set(os.listdir(server.service._workspaces.root)) == ids


LEAVES_TWO = """
import os, threading
events, held = [], []
try:
    while True:
        events.append(threading.Event())
        thread = threading.Thread(target=events[-1].wait, daemon=True)
        thread.start()
        held.append(thread)
except RuntimeError:
    for event, thread in zip(events[:2], held):
        event.set()
        thread.join()
x = 1
"""


async def test_a_source_loses_nothing_where_there_can_be_no_more_processes_for_a_copy(
    api,
):
    await api.create(limits={"processes": 32})
    assert (await api.run(LEAVES_TWO))["exit_code"] == 0
    answer = problem_of(await raw(api, "POST", PATH, ""), 503, "kernel_start_failed")
    assert "could not be copied" in answer["error"]
    assert (await api.run("os._exit(1)"))["memory"] == "restored"
    assert (await api.run("x"))["text"] == "1"


BAD = [
    ('{"count": 0}', "count"),
    ('{"count": 33}', "count"),
    ('{"count": true}', "count"),
    ('{"count": "2"}', "count"),
    ('{"session_ids": []}', "session_ids"),
    ('{"session_ids": ["a/b"]}', "session_ids.0"),
    ('{"reseed": 1}', "reseed"),
    ('{"copies": 2}', "copies"),
    ('{"session_ids": ["a", "a"]}', "session_ids"),
    ('{"session_ids": ["a"], "count": 2}', "session_ids"),
]


async def test_nothing_is_left_when_the_last_of_them_has_gone(api):
    await api.create()
    await api.run("x = 1")
    await fork(api, session_ids=["a", "b"])
    assert len(named("annex")) >= 2
    hosts = set(named("kernel-host"))
    for name in ("s", "a", "b"):
        await api.send("DELETE", f"/api/sessions/{name}")
    await eventually(lambda: not named("annex") and not hosts & set(named("kernel-host")))

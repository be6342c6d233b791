"""A kernel that is lost is replaced by one with the memory of the last completed run."""

import pytest

from tests.service.test_fork import fork
from tests.support.named import named
from tests.support.waiting import eventually

IN_C = "import ctypes\nlibc = ctypes.PyDLL(None)\nwhile True: libc.sleep(60)"
BLOCKED = (
    IN_C,
    "import re, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})\n"
    "re.match('(a+)+$', 'a' * 40 + 'b')",
)
COUNTS = """
import gc, glob
living = [stat for stat in map(open, glob.glob('/proc/[0-9]*/stat')) if ') Z ' not in stat.read()]
pss = open('/proc/self/smaps_rollup').read().partition('Pss:')[2].split()[0]
gc.collect()
mappings, objects = len(open('/proc/self/maps').readlines()), len(gc.get_objects())
print(len(os.listdir('/proc/self/fd')) - len(living), len(living), mappings, objects, pss)
del living
"""
CONNECTED = """
import contextlib, os, socket
found = []
for fd in map(int, os.listdir('/proc/self/fd')):
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as one:
        found += [] if one.getsockname() else [one.getpeername()]
[peer for peer in found if peer]
"""
MOST_GROWTH = (0, 0, 9, 300, 10 << 10)
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def server(serve):
    return serve(terminate_grace=0.3)


async def until_snapshot():
    """Return when a kernel's snapshot waits, and nothing else of it is about to."""
    await eventually(lambda: len(named("snapshot")) == 1)


async def test_a_timeout_costs_what_the_run_has_changed_and_nothing_else_twice_in_a_row(api):
    await api.create()
    await api.run("import os, random, fractions as f; random.seed(3); expected = random.random()")
    before = await api.run(
        "os.mkdir('d'); os.chdir('d'); os.environ['SET'] = 'here'; random.seed(3); x = [1]; x"
    )
    show = (
        "print(x, os.getcwd(), os.environ['SET'], f.Fraction(1, 2), In[2] == _i2, Out[2],"
        " random.random() == expected)"
    )
    for number in range(2):
        lost = await api.run(
            f"x.append(2); del f; os.chdir('/'); os.environ['SET'] = ''; random.seed()\n{IN_C}",
            timeout=0.3,
        )
        assert (lost["exit_code"], lost["memory"]) == (124, "restored")
        assert lost["memory_detail"] == (
            "the run timed out and its kernel was replaced: "
            "the memory is as after the last completed run"
        )
        run = await api.run(show if number == 0 else "x")
        assert run["memory"] == "kept"
        assert run["execution_count"] == before["execution_count"] + 1 + number
        if number == 0:
            assert run["stdout"] == "[1] /workspace/d here 1/2 True [1] True\n", run
        else:
            assert run["text"] == "[1]"


async def test_no_socket_of_the_kernels_could_be_taken_for_one_of_the_codes(api):
    await api.create()
    # Those that it listens on and what they accept have an address, and it connects to nobody.
    run = await api.run(CONNECTED)
    assert run["text"] == "[]"


async def test_what_its_host_has_started_is_not_counted_where_the_kernel_dies_at_once(api):
    await api.create()
    await fork(api, session_ids=["copy"])
    # The snapshot gets on only when the kernel has gone, and its host is its parent.
    await api.run("import os, time; os.register_at_fork(after_in_child=lambda: time.sleep(0.3))")
    run = await api.run(KILL)
    assert run["memory"] == "restored"
    assert run["memory_detail"].endswith("the memory is as after the last completed run")


async def test_everything_works_in_a_kernel_that_was_restored(api):
    await api.create(on_timeout="interrupt")
    await api.run("import logging, sys, threading, time; kept = sys.stdout\nlog = logging.warning")
    assert (await api.run(KILL))["memory"] == "restored"
    run = await api.run(
        "import os, subprocess\n"
        "print('one'); os.system('echo two'); kept.write('three\\n'); os.write(1, b'four\\n')\n"
        "subprocess.run(['sh', '-c', 'echo five']); log('six')\n"
        "print(input())",
        stdin="seven\n",
    )
    assert run["stdout"] == "one\ntwo\nthree\nfour\nfive\nseven\n"
    assert run["stderr"] == "WARNING:root:six\n"
    run = await api.run("for n in range(100_000): print(n)")
    assert run["stdout"].splitlines()[-1] == "99999"
    run = await api.run(
        "go = threading.Event()\n"
        "threading.Thread(target=lambda: (go.wait(), print('of its thread'))).start()"
    )
    await api.run("go.set(); print('of mine')")

    async def is_told():
        found = await api.send("GET", f"/api/sessions/s/runs/{run['run_id']}")
        return found.json["background"] == "of its thread\n"

    await eventually(is_told)
    run = await api.run("import asyncio; await asyncio.sleep(60)", timeout=0.3)
    assert (run["exit_code"], run["memory"]) == (124, "kept")
    run = await api.run("import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()")
    assert [output["output_type"] for output in run["outputs"]] == ["display_data"]
    run = await api.run("1 / 0")
    assert run["error"]["ename"] == "ZeroDivisionError"
    run = await api.run("import sys; sys.exit(3)")
    assert (run["exit_code"], run["memory"]) == (3, "kept")


async def test_it_is_the_memory_of_the_latest_run_whose_kernel_lived_however_that_ended(api):
    await api.create()
    ends = {
        "pass": 0,
        "1 / 0": 1,
        "import sys; sys.exit(3)": 3,
        "import time; time.sleep(60)": 124,
        "import os; os._exit(7)": 7,
    }
    expected = 0
    for number, (end, exit_code) in enumerate(ends.items(), start=1):
        run = await api.run(f"n = {number}\n{end}", timeout=0.3, on_timeout="interrupt")
        assert run["exit_code"] == exit_code
        expected = number if run["memory"] == "kept" else expected
        run = await api.run(KILL)
        assert run["memory"] == "restored", (end, run)
        assert (await api.run("n"))["text"] == str(expected)
    assert expected == 4


async def test_a_kernel_that_dies_between_runs_is_restored_and_what_goes_with_it_is_named(
    api, server
):
    await api.create()
    run = await api.run(
        "import asyncio, os, socket, subprocess, threading\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(2)]\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\n"
        "x = 1; loop = asyncio.get_running_loop()"
    )
    assert run["exit_code"] == 0
    await until_snapshot()
    # What waits holds none of what it has a copy of: neither is open any more.
    run = await api.run(
        "port = listener.getsockname()[1]; listener.close()\n"
        "listener = socket.create_server(('127.0.0.1', port)); child.stdin.close(); child.wait(5)\n"
        "child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\n"
        "_ = loop.call_later(0.2, os._exit, 5)"
    )
    assert (run["exit_code"], run["memory"]) == (0, "kept"), run
    await eventually(lambda: server.service._live["s"]._memory.change)
    run = await api.run("x")
    assert (run["text"], run["memory"]) == ("1", "restored")
    assert run["memory_detail"] == (
        "the kernel exited with status 5 between runs and was replaced: the memory is as after the "
        "last completed run, without 1 thread, 2 asyncio tasks, 1 socket and 1 child process"
    )
    run = await api.run(
        "try: listener.accept()\nexcept OSError: print('no socket')\n"
        "try: child.stdin.write(b'x'); child.stdin.flush()\n"
        "except BrokenPipeError: print('no child')\n"
        "listener.close(); x, child.poll() is None, any(task.done() for task in tasks)"
    )
    assert run["stdout"] == "no socket\nno child\n", run
    assert run["text"] == "(1, False, False)"


async def test_without_snapshots_memory_is_lost_and_the_answer_says_why(api):
    session = await api.create(snapshots=False)
    assert session["snapshots"] is False
    await api.run("x = 1")
    run = await api.run("while True: pass", timeout=0.3)
    assert run["memory"] == "lost"
    assert run["memory_detail"].endswith("of the memory: snapshots are off for this session")
    answer = await api.send("PATCH", "/api/sessions/s", {"snapshots": True})
    assert answer.json["session"]["snapshots"] is True
    await api.run("x = 2")
    assert (await api.run(KILL))["memory"] == "restored"
    await api.send("PATCH", "/api/sessions/s", {"snapshots": False})
    await api.run("x = 3")
    await eventually(lambda: not named("snapshot"))
    run = await api.run(KILL)
    assert run["memory"] == "lost"
    assert run["memory_detail"].endswith("snapshots are off for this session")
    answer = await api.send("PATCH", "/api/sessions/s", {"snapshots": None})
    assert answer.json["session"]["snapshots"] is True


async def test_a_session_over_its_share_has_no_snapshot_and_the_answer_says_why(api):
    await api.create(limits={"memory": "300MiB"})
    await api.run("x = 1")
    await api.run("data = bytearray(b'1') * (130 << 20)")
    run = await api.run(KILL)
    assert run["memory"] == "lost"
    assert "the session held 1" in run["memory_detail"]
    assert run["memory_detail"].endswith("MiB, and it is taken up to 120 MiB")
    await api.run("x = 2")
    assert (await api.run(KILL))["memory"] == "restored"


async def test_code_that_waits_for_any_child_does_not_meet_the_snapshot(api):
    await api.create()
    await api.run("import os, subprocess, signal; heard = []")
    await until_snapshot()
    waits = "os.wait()", "os.waitpid(-1, 0)", "os.wait3(0)", "os.wait4(-1, os.WNOHANG)"
    for wait in (*waits, "os.waitid(os.P_ALL, 0, os.WEXITED)"):
        run = await api.run(wait, timeout=5)
        assert run["error"]["ename"] == "ChildProcessError", run
    run = await api.run(
        "child = subprocess.Popen(['true']); pid, status = os.wait(); pid == child.pid, status"
    )
    assert run["text"] == "(True, 0)"


async def test_time_after_time_nothing_is_lost_and_nothing_grows(api):
    await api.create()
    await api.run("import os; data = os.urandom(100 << 20); check = hash(data); n = 0")
    assert (await api.run(KILL))["memory"] == "restored"

    async def counted():
        """Its descriptors, mappings and objects, the processes in its sandbox, KiB of memory."""
        await until_snapshot()
        return [int(figure) for figure in (await api.run(COUNTS))["stdout"].split()]

    await api.run(KILL)
    first = await counted()
    for number in range(1, 6):
        assert (await api.run("n += 1; n"))["text"] == str(number)
        run = await api.run(f"data = n = None\n{BLOCKED[number % 2]}", timeout=0.2)
        assert (run["exit_code"], run["memory"]) == (124, "restored"), run
    assert (await api.run("hash(data) == check"))["text"] == "True"

    async def as_at_first():
        bounds = map(sum, zip(first, MOST_GROWTH, strict=True))
        return all(now <= most for now, most in zip(await counted(), bounds, strict=True))

    await eventually(as_at_first)
    await api.send("DELETE", "/api/sessions/s")
    assert named("snapshot") == []


async def test_a_handler_that_ends_the_kernel_is_heeded_while_the_kernel_is_copied(api):
    await api.create()
    code = (
        "import atexit, signal, time\n"
        "atexit.register(lambda: print('left', file=open('left', 'a')))\n"
        "signal.signal(signal.SIGTERM, lambda *_: exit())\n"
        "time.sleep(60)"
    )
    for _ in range(8):
        assert (await api.run(code, timeout=0.2))["exit_code"] == 124
    assert (await api.run("print(open('left').read().count('left'))"))["stdout"] == "8\n"


async def test_a_kernel_at_its_limit_of_processes_goes_on_and_says_what_came_of_its_memory(api):
    await api.create(limits={"processes": 40})
    await api.run("import subprocess, threading; x = 1; left = []")
    await until_snapshot()
    fill = (
        "try:\n    while True: left.append(subprocess.Popen(['sleep', '600']))\n"
        "except OSError as error: print(type(error).__name__)"
    )
    # Until what the snapshot before leaves free has gone, too, mostly.
    for _ in range(4):
        assert (await api.run(fill))["stdout"] == "BlockingIOError\n"
    for number in range(20):
        assert (await api.run(f"print({number})"))["stdout"] == f"{number}\n"
    lost = await api.run(KILL)
    if lost["memory"] == "lost":
        assert "could not be copied" in lost["memory_detail"]
    assert (await api.run("print('x' in globals())"))[
        "stdout"
    ] == f"{lost['memory'] == 'restored'}\n"


async def test_code_that_closes_every_descriptor_ends_its_kernel_only(api):
    await api.create()
    await api.run("import os, time; x = 1")
    run = await api.run(
        "os.closerange(3, 1 << 16)\nend = time.time() + 1\nwhile time.time() < end: pass"
    )
    assert (run["exit_code"], run["memory"]) == (1, "restored"), run
    assert (await api.run("print(x)"))["stdout"] == "1\n"


async def test_signals_are_not_held_back_any_more_in_a_restored_kernel(api):
    await api.create()
    await api.run(
        "import os, signal; got = []; signal.signal(signal.SIGUSR1, lambda *_: got.append(1))"
    )
    await api.run(KILL)
    run = await api.run(
        "os.kill(os.getpid(), signal.SIGUSR1); got, signal.pthread_sigmask(signal.SIG_BLOCK, ())"
    )
    assert run["text"] == "([1], set())"
    masked = await api.run("print(os.popen('grep SigBlk /proc/self/status').read())")
    assert masked["stdout"].split() == ["SigBlk:", "0" * 16]


async def test_context_variables_are_restored(api):
    await api.create()
    await api.run("import contextvars; var = contextvars.ContextVar('var')")
    await api.run("token = var.set(1)")
    await api.run(KILL)
    await api.run("before = var.get(); token = var.set(2)")
    await api.run(KILL)
    assert (await api.run("before, var.get()"))["text"] == "(1, 2)"


async def test_who_restarts_a_kernel_gets_an_empty_memory(api):
    await api.create()
    await api.run("x = 1")
    await until_snapshot()
    await api.send("POST", "/api/sessions/s/restart")
    await eventually(lambda: not named("snapshot"))
    run = await api.run("'x' in globals()")
    assert (run["text"], run["memory"]) == ("False", "lost")

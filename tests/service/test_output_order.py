"""All of a run's output is in its answer, in order, and none of another's, at whatever speed."""

import pytest

from tests.support.snapshots import run_and_copy

LAST_WORDS = {
    "print": "print('last', end='')",
    "stderr": "import sys; _ = sys.stderr.write('last')",
    "descriptor": "import os; _ = os.write(1, b'last')",
    "child": "import subprocess; _ = subprocess.run(['printf', 'last'])",
    "background child": "import subprocess; _ = subprocess.Popen(['printf', 'last']).wait()",
    "thread": (
        "import threading; t = threading.Thread(target=print, args=('last',), kwargs={'end': ''})\n"
        "t.start(); t.join()"
    ),
    "fork": (
        "import os\npid = os.fork()\nif not pid:\n    os.write(1, b'last')\n    os._exit(0)\n"
        "_ = os.waitpid(pid, 0)"
    ),
    "task": (
        "import asyncio\nasync def say(): print('last', end='')\nawait asyncio.create_task(say())"
    ),
}


@pytest.mark.parametrize("code", LAST_WORDS.values(), ids=LAST_WORDS.keys())
async def test_what_is_said_right_before_the_end_is_in_the_answer(api, code):
    await api.create()
    for number in range(25):
        run = await api.run(f"print({number})\n{code}")
        assert (run["stdout"] + run["stderr"]) == f"{number}\nlast"
        assert (run["truncated"], run["background"]) == (False, "")


async def test_runs_in_quick_succession_keep_their_output_apart(api):
    await api.create()
    for number in range(200):
        run = await api.run(
            f"import os\nprint('p{number}')\n_ = os.write(1, b'w{number}')\n{number}"
        )
        assert run["stdout"] == f"p{number}\nw{number}"
        assert run["text"] == str(number)


async def test_many_tiny_messages_come_in_order(api):
    await api.create()
    run = await api.run(
        "import sys\n"
        "from IPython.display import display\n"
        "for number in range(2000):\n"
        "    print(number, flush=True)\n"
        "    if not number % 100: display(number)\n"
        "    if not number % 10: print(number, file=sys.stderr, flush=True)"
    )
    assert run["stdout"] == "".join(f"{number}\n" for number in range(2000))
    assert run["stderr"] == "".join(f"{number}\n" for number in range(0, 2000, 10))
    shown = [o["data"]["text/plain"] for o in run["outputs"] if o["output_type"] == "display_data"]
    assert shown == [str(number) for number in range(0, 2000, 100)]


async def test_a_display_and_an_error_come_behind_what_was_printed_before(api):
    await api.create()
    for _ in range(25):
        run = await api.run(
            "from IPython.display import display\n"
            "import os\nprint('a', end='')\ndisplay('b')\n_ = os.write(1, b'c')\n1/0"
        )
        kinds = [output["output_type"] for output in run["outputs"]]
        assert kinds == ["stream", "display_data", "stream", "error"]


async def test_pipes_that_the_code_has_changed_are_new_for_the_next_run(api):
    await api.create()
    for spoil in (
        "os.dup2(os.open('elsewhere', os.O_WRONLY | os.O_CREAT), 1)",
        "os.close(1)",
        "os.set_blocking(1, False)",
        "os.write(1, '€'.encode()[:1])",
    ):
        await api.run(f"import os\n_ = {spoil}")
        run = await api.run("_ = os.write(1, b'here' * 100_000)")
        assert run["stdout"] == "here" * 100_000


async def test_a_child_of_a_run_speaks_for_it_while_later_runs_start_none(api):
    await api.create()
    first = await api.run(
        "import subprocess\n"
        "child = subprocess.Popen(['sh', '-c', 'read go; echo late'], stdin=subprocess.PIPE)"
    )
    for number in range(5):
        run = await api.run(f"import os; _ = os.write(1, b'{number}')")
        assert run["stdout"] == str(number)
    run = await api.run("child.communicate(b'\\n'); _ = os.write(1, b'now')")
    assert run["stdout"] == "now"
    later = await api.send("GET", f"/api/sessions/s/runs/{first['run_id']}")
    assert later.json["background"] == "late\n"


async def test_a_run_leaves_its_pipes_to_the_next_behind_a_snapshot_but_not_behind_a_child(api):
    await api.create()
    await run_and_copy(api, "import os, subprocess")
    pipes = []
    for started in ("", "", "subprocess.run(['true']); ", ""):
        run = await run_and_copy(api, f"{started}os.fstat(1).st_ino")
        pipes.append(run["text"])
    first, *others = pipes
    assert others[:2] == [first, first]
    assert others[2] != first


async def test_handlers_that_print_at_any_moment_hold_up_no_run_and_lose_no_end(api):
    await api.create()
    await api.run(
        "import signal\n"
        "_ = signal.signal(signal.SIGALRM, lambda signum, frame: print('.', end=''))\n"
        "_ = signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)"
    )
    for number in range(60):
        run = await api.run(f"print('here')\n{number}", timeout=20)
        assert (run["exit_code"], run["text"]) == (0, str(number)), run["stderr"]
        assert run["stdout"].replace(".", "") == "here\n"

"""Exit codes, and what of them the session survives."""

import pytest

from tests.conformance.client import HELD

OF_CODE = {
    "1": 0,
    "exit()": 0,
    "exit(0)": 0,
    "import sys; sys.exit()": 0,
    "import sys; sys.exit(None)": 0,
    "import sys; sys.exit(3)": 3,
    "exit(4)": 4,
    "quit(5)": 5,
    "exit(124)": 124,
    "raise SystemExit(6)": 6,
    "1 / 0": 1,
    "raise KeyError('x')": 1,
}
OF_KERNELS = {
    "import os; os._exit(7)": 7,
    "import os; os._exit(0)": 0,
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": 137,
    "import ctypes; ctypes.string_at(0)": 139,
    "import os; os.abort()": 134,
}


@pytest.mark.parametrize("code", OF_CODE)
def test_code_that_ends_leaves_the_session_its_memory(session, code):
    session.run("before = 1")
    run = session.run(f"print('begun')\n{code}")
    assert (run["exit_code"], run["stdout"]) == (OF_CODE[code], "begun\n")
    assert run["memory"] == "kept"
    assert run["timed_out"] is False
    assert session.says("print(before)") == "1\n"


def test_nothing_runs_behind_exit(session):
    for code in ("exit(3)", "quit(3)", "import sys; sys.exit(3)"):
        run = session.run(f"print('before')\n{code}\nprint('behind')")
        assert (run["exit_code"], run["stdout"], run["error"]) == (3, "before\n", None)


def test_a_text_given_to_exit_is_on_stderr_and_the_code_is_1(session):
    run = session.run("import sys; sys.exit('no such luck')")
    assert (run["exit_code"], run["stdout"]) == (1, "")
    assert run["stderr"].endswith("no such luck\n")


def test_an_exception_is_told_in_parts_and_as_plain_text(session):
    run = session.run("print('begun')\ndef f(): return {}['missing']\nf()")
    assert (run["exit_code"], run["status"], run["stdout"]) == (1, "failed", "begun\n")
    assert (run["error"]["ename"], run["error"]["evalue"]) == ("KeyError", "'missing'")
    assert run["error"]["traceback"]
    assert "Traceback" in run["stderr"]
    assert run["stderr"].rstrip().endswith("KeyError: 'missing'")
    assert "\x1b" not in run["stderr"]


def test_a_syntax_error_is_1_and_runs_nothing(session):
    run = session.run("print('begun')\ndef")
    assert (run["exit_code"], run["stdout"], run["error"]["ename"]) == (1, "", "SyntaxError")


@pytest.mark.parametrize("code", OF_KERNELS)
def test_a_kernel_that_dies_is_replaced_and_the_answer_says_so(session, code):
    session.run("before = 1")
    # It dies when its words have come: what a process has said just before a signal may be lost.
    with session.streaming(f"print('begun')\n{HELD}{code}") as events:
        came = ""
        while came != "begun\n":
            came += next(events).data["content"]
        session.let_go()
        *_, done = events
    run = session.result(done.data["run_id"])
    assert run["exit_code"] == OF_KERNELS[code]
    assert run["stdout"] == "begun\n"
    assert run["memory"] in ("lost", "restored")
    assert run["memory_detail"]
    after = session.run("print('before' in globals())")
    assert (after["exit_code"], after["memory"]) == (0, "kept")
    assert after["stdout"] == f"{run['memory'] == 'restored'}\n"


def test_a_kernel_that_dies_takes_no_files_along(session):
    session.run("open('f', 'w').write('x'); import os; os._exit(1)")
    assert session.get("f").content == b"x"

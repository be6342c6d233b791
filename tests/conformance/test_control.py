"""Interrupt, restart, sleep and wake: what acts on the kernel, and what is left of the memory."""

import time

from tests.conformance.client import problem_of


def test_an_interrupt_ends_the_run_with_130_and_keeps_the_memory(session):
    session.run("x = 5")
    held = session.begin_held()
    assert session.answer("POST", "/interrupt")["id"] == session.id
    run = session.result(held)
    assert (run["exit_code"], run["status"], run["memory"]) == (130, "interrupted", "kept")
    assert run["timed_out"] is False
    assert session.says("print(x)") == "5\n"


def test_an_interrupt_without_a_run_changes_nothing(session):
    session.run("x = 6")
    assert session.answer("POST", "/interrupt")["state"] == "idle"
    assert session.says("print(x)") == "6\n"


def test_code_that_handles_its_interrupt_decides_how_it_ends(session):
    session.send("DELETE", "/files/inside")
    run_id = session.begin(
        "import time\n"
        "try:\n    open('inside', 'w').close(); time.sleep(60)\n"
        "except KeyboardInterrupt: print('handled')",
        timeout=60,
    )
    session.until_there("inside")
    session.answer("POST", "/interrupt")
    run = session.result(run_id)
    assert (run["exit_code"], run["stdout"]) == (0, "handled\n")


def test_a_restart_empties_the_memory_and_keeps_files_and_data(session):
    session.patch(data={"kept": 1})
    session.run("x = 7; open('f', 'w').write('kept')")
    assert session.answer("POST", "/restart")["state"] == "idle"
    run = session.run("print('x' in globals(), open('f').read())")
    assert (run["stdout"], run["memory"]) == ("False kept\n", "lost")
    assert run["memory_detail"]
    assert run["data"] == {"kept": 1}
    # It is told once.
    assert session.run("1")["memory"] == "kept"


def test_a_restart_during_a_run_ends_it_with_130(session):
    held = session.begin_held()
    session.answer("POST", "/restart")
    run = session.result(held)
    assert (run["exit_code"], run["status"], run["memory"]) == (130, "interrupted", "lost")


def test_a_sleeping_session_wakes_for_its_next_run_with_files_and_data(session):
    session.patch(data={"kept": 2})
    session.run("x = 8; open('f', 'w').write('asleep')")
    assert session.answer("POST", "/sleep")["state"] == "sleeping"
    assert session.show()["state"] == "sleeping"
    run = session.run("print(open('f').read(), 'x' in globals())")
    assert (run["exit_code"], run["data"]) == (0, {"kept": 2})
    # Always true, never guessed: the word, and what the code finds.
    assert run["memory"] in ("lost", "restored")
    assert run["stdout"] == f"asleep {run['memory'] == 'restored'}\n"
    assert run["memory_detail"]


def test_waking_starts_the_kernel_before_it_is_needed(session):
    session.answer("POST", "/sleep")
    assert session.answer("POST", "/wake")["state"] == "idle"
    assert session.answer("POST", "/wake")["state"] == "idle"


def test_a_session_that_is_at_work_is_not_put_to_sleep(session):
    held = session.begin_held()
    problem_of(session.send("POST", "/sleep"), 409, "session_busy")
    session.let_go()
    assert session.result(held)["exit_code"] == 0


def test_a_session_that_nobody_uses_sleeps_after_its_time(make_session):
    session = make_session(sleep_after=0.3)
    assert session.run("1")["exit_code"] == 0
    deadline = time.monotonic() + 20
    while session.show()["state"] != "sleeping":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert session.says("print('awake')") == "awake\n"


def test_a_session_that_never_sleeps_says_so(make_session):
    assert make_session(sleep_after="never").created["sleep_after"] == "never"

"""Timeouts: who decides them, when their clock starts, and what happens when it runs out."""

import re

import pytest

from tests.conformance.client import ENDLESS

BAD = [0, -1, -0.5, 1e12, "5", "", True, [], {}]
LATE = "import time; time.sleep(0.6)"


def seconds(run):
    """How long the run took, as it says."""
    assert re.fullmatch(r"\d+\.\d{3}s", run["duration"])
    return float(run["duration"][:-1])


# ---- which timeout


def test_the_request_counts_before_the_session_and_that_before_the_service(make_session):
    session = make_session(default_timeout=0.3)
    assert session.run(LATE)["exit_code"] == 124
    assert session.run(LATE, timeout=None)["exit_code"] == 124
    assert session.run(LATE, timeout=20)["exit_code"] == 0
    session.patch(default_timeout=None)
    assert session.run(LATE)["exit_code"] == 0
    assert session.run(LATE, timeout=0.3)["exit_code"] == 124


def test_a_run_may_ask_for_more_than_the_session_says(session):
    session.patch(default_timeout=0.3)
    assert session.run(LATE, timeout=5)["exit_code"] == 0
    session.patch(default_timeout=None)


def test_a_default_changed_during_a_run_counts_from_the_next(make_session):
    session = make_session(default_timeout=20)
    run_id = session.begin_held()
    session.patch(default_timeout=0.3)
    session.let_go()
    assert session.result(run_id)["exit_code"] == 0
    assert session.run(ENDLESS)["exit_code"] == 124


@pytest.mark.parametrize("given", [1, 0.25, 60, 59.5, 3600])
def test_numbers_of_seconds_whole_or_not_are_taken(session, given):
    assert session.patch(default_timeout=given)["default_timeout"] == given
    assert session.run("1", timeout=given)["exit_code"] == 0


@pytest.mark.parametrize("given", BAD, ids=repr)
def test_anything_else_is_refused_naming_the_field_the_value_and_the_range(client, session, given):
    runs = session.show()["run_count"]
    requests = {
        ("POST", f"{session.path}/run", "timeout"): {"code": "1"},
        ("POST", f"{session.path}/stream", "timeout"): {"code": "1"},
        ("PATCH", session.path, "default_timeout"): {},
        ("POST", "/api/sessions", "default_timeout"): {"language": "python"},
    }
    for (method, path, name), body in requests.items():
        answer = client.send(method, path, {**body, name: given})
        assert answer.status_code == 400
        (detail,) = answer.json()["details"]
        assert detail["field"] == name
        assert re.search(r"greater than 0 and at most \d+", detail["message"])
        if not isinstance(given, list | dict):
            assert str(given).lower().strip("+")[:4] in detail["message"].lower()
    assert session.show()["run_count"] == runs


# ---- its clock


def test_the_clock_does_not_run_while_the_run_waits_for_another(session):
    session.begin(LATE)
    run = session.run("print('done')", timeout=0.5)
    assert (run["exit_code"], run["stdout"]) == (0, "done\n")
    assert run["usage"]["queue_seconds"] > 0.4
    assert seconds(run) < 0.5


def test_the_clock_does_not_run_while_the_session_wakes(session):
    session.answer("POST", "/sleep")
    assert session.run("print('done')", timeout=1)["exit_code"] == 0


def test_the_duration_is_that_of_the_code(session):
    run = session.run("import time; time.sleep(0.3)")
    assert 0.3 <= seconds(run) < 2


# ---- when it runs out


def test_a_timeout_is_an_answer_with_the_output_so_far(session):
    run = session.run(f"print('begun', flush=True)\n{ENDLESS}", timeout=0.5)
    assert (run["exit_code"], run["timed_out"], run["status"]) == (124, True, "timed_out")
    assert run["stdout"] == "begun\n"
    assert 0.5 <= seconds(run) < 3


def test_by_default_the_kernel_is_replaced_and_the_next_run_works(make_session):
    session = make_session()
    session.run("x = 1")
    run = session.run(ENDLESS, timeout=0.3)
    assert run["memory"] in ("lost", "restored")
    assert run["memory_detail"]
    after = session.run("print('x' in globals())")
    assert (after["exit_code"], after["memory"]) == (0, "kept")
    assert after["stdout"] == f"{run['memory'] == 'restored'}\n"


def test_with_interrupt_the_memory_is_kept_where_that_was_enough(make_session):
    session = make_session(on_timeout="interrupt")
    session.run("x = 1")
    run = session.run(ENDLESS, timeout=0.3)
    assert (run["exit_code"], run["memory"]) == (124, "kept")
    assert session.says("print(x)") == "1\n"


def test_with_interrupt_the_kernel_is_replaced_where_that_was_not_enough(make_session):
    session = make_session(on_timeout="interrupt")
    code = (
        "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: print('no')"
    )
    run = session.run(code, timeout=0.3)
    assert (run["exit_code"], run["timed_out"]) == (124, True)
    assert run["memory"] in ("lost", "restored")
    assert "no\n" in run["stdout"]
    assert session.says("print('on')") == "on\n"


def test_a_run_may_say_otherwise_than_its_session(make_session):
    session = make_session(on_timeout="restart")
    assert session.run(ENDLESS, timeout=0.3, on_timeout="interrupt")["memory"] == "kept"
    session.patch(on_timeout="interrupt")
    assert session.run(ENDLESS, timeout=0.3, on_timeout="restart")["memory"] != "kept"


def test_the_interrupt_lets_the_code_unwind_and_save(session):
    run = session.run(
        "import json, time\n"
        "done = 0\n"
        "try:\n"
        "    while True: time.sleep(0.01); done += 1\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
        "finally:\n"
        "    json.dump({'done': done}, open('.session_data.json', 'w'))",
        timeout=0.5,
    )
    assert (run["exit_code"], run["stdout"]) == (124, "interrupted\n")
    assert run["data"]["done"] > 5
    assert session.show()["data"] == run["data"]


def test_a_handler_of_sigterm_saves_and_leaves(session):
    run = session.run(
        "import json, signal, time\n"
        "def save(signum, frame):\n"
        "    json.dump({'items': items}, open('.session_data.json', 'w'))\n"
        "    print('saved')\n"
        "    exit(124)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "items = 0\n"
        "while True:\n"
        "    time.sleep(0.01)\n"
        "    items += 1",
        timeout=0.5,
    )
    assert (run["exit_code"], run["timed_out"], run["stdout"]) == (124, True, "saved\n")
    assert run["data"]["items"] > 5


def test_what_ignores_every_signal_is_killed_with_its_children(make_session):
    session = make_session()
    run = session.run(
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = 'trap \"\" INT TERM; while true; do date +%s%N > beat; sleep 0.05; done'\n"
        "subprocess.Popen(['sh', '-c', child], start_new_session=True)\n"
        "while True:\n"
        "    try: time.sleep(60)\n"
        "    except BaseException: pass",
        timeout=0.5,
    )
    assert (run["exit_code"], run["memory"] == "kept") == (124, False)
    beat = session.get("beat").content
    session.says("import time; time.sleep(0.3)")
    assert session.get("beat").content == beat


def test_a_run_that_is_sent_meanwhile_begins_when_the_new_kernel_is_there(session):
    timing_out = session.begin(ENDLESS, timeout=0.3)
    after = session.run("print('on')")
    assert session.result(timing_out)["exit_code"] == 124
    assert (after["exit_code"], after["stdout"]) == (0, "on\n")


def test_a_sleeping_child_does_not_hold_up_the_end(session):
    run = session.run("import subprocess; subprocess.run(['sleep', '60'])", timeout=0.3)
    assert (run["exit_code"], run["timed_out"]) == (124, True)
    assert seconds(run) < 5


def test_a_timeout_in_a_session_that_is_not_persistent_is_the_same(make_session):
    session = make_session(persistent=False)
    assert session.run(f"print('begun')\n{ENDLESS}", timeout=0.3)["exit_code"] == 124
    assert session.says("print('on')") == "on\n"

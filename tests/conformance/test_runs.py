"""Runs: what they answer, in the background, waited for, cancelled, repeated."""

import re
import time

import httpx
import nbformat
import pytest

from tests.conformance.client import ENDLESS, new_id, problem_of

COUNT = "open('n', 'a').write('x')\nprint(len(open('n').read()))"

# ---- the answer


def test_a_run_answers_every_field(session):
    run = session.run("import sys; print('out'); print('err', file=sys.stderr); 6 * 7")
    assert re.fullmatch(r"run_\w+", run["run_id"])
    assert (run["session_id"], run["language"]) == (session.id, "python")
    assert (run["status"], run["exit_code"]) == ("completed", 0)
    assert (run["stdout"], run["stderr"], run["text"]) == ("out\n", "err\n", "42")
    assert re.fullmatch(r"\d+\.\d{3}s", run["duration"])
    assert (run["error"], run["timed_out"], run["truncated"]) == (None, False, False)
    assert run["memory"] == "kept"
    assert run["background"] == ""
    assert run["data"] == session.show()["data"]
    assert run["started_at"].endswith("Z")
    following = session.run("1")
    assert following["execution_count"] == run["execution_count"] + 1
    assert following["run_id"] != run["run_id"]


def test_outputs_are_those_of_a_notebook_in_order(session):
    run = session.run(
        "import sys\nfrom IPython.display import HTML, display\n"
        "print('one')\ndisplay(HTML('<b>two</b>'))\nprint('three', file=sys.stderr)\n4"
    )
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.from_dict(o) for o in run["outputs"]])
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))
    kinds = [output["output_type"] for output in run["outputs"]]
    assert kinds == ["stream", "display_data", "stream", "execute_result"]
    assert run["outputs"][1]["data"]["text/html"] == "<b>two</b>"


def test_text_in_any_script_comes_back(session):
    text = "Grüße, 世界 💥 \u202eمرحبا\u202c \t\x07"
    assert session.says(f"print({text!r})") == text + "\n"


def test_what_the_code_reads_is_the_stdin_of_the_run(session):
    code = "import sys; print(input('? '), sys.stdin.read())"
    assert session.run(code, stdin="first\nrest")["stdout"].endswith("first rest\n")
    # Where there is none, nobody is waited for.
    assert session.run("input()")["exit_code"] == 1


def test_too_much_output_keeps_head_and_tail_and_says_how_much_was_cut(session):
    run = session.run("print('head'); print('x' * (8 << 20)); print('tail')")
    assert (run["exit_code"], run["truncated"]) == (0, True)
    assert run["stdout"].startswith("head\n")
    assert run["stdout"].endswith("tail\n")
    assert len(run["stdout"]) < 8 << 20
    kept = run["stdout"].count("x")
    assert run["truncated_bytes"] >= (8 << 20) - kept - 100


def test_what_threads_print_later_belongs_to_their_run(session):
    first = session.run(
        "import threading; go, done = threading.Event(), threading.Event()\n"
        "def work(): go.wait(); print('late'); done.set()\n"
        "threading.Thread(target=work).start(); print('early')"
    )
    second = session.run("go.set(); _ = done.wait(); print('mine')")
    assert (first["stdout"], second["stdout"]) == ("early\n", "mine\n")
    assert session.result(first["run_id"])["background"] == "late\n"


def test_a_run_tells_what_it_took(session):
    usage = session.run("print('x' * 99)")["usage"]
    assert usage["output_bytes"] == 100
    assert all(usage[name] >= 0 for name in ("queue_seconds", "wall_seconds", "cpu_seconds"))
    assert usage["peak_memory_bytes"] > 1 << 20


# ---- history


def test_the_history_has_the_latest_runs_newest_first(session):
    runs = [session.run(code) for code in ("'a'", "'b'", "1 / 0")]
    listed = session.answer("GET", "/runs")
    assert listed["count"] == len(listed["runs"])
    latest = listed["runs"][:3]
    assert [run["run_id"] for run in latest] == [run["run_id"] for run in reversed(runs)]
    assert [run["code"] for run in latest] == ["1 / 0", "'b'", "'a'"]
    assert [run["status"] for run in latest] == ["failed", "completed", "completed"]


def test_a_run_is_under_its_id_as_it_was_answered(session):
    run = session.run("print('x'); 5")
    assert session.result(run["run_id"]) == run


def test_a_run_of_another_session_is_404(session, make_session):
    run_id = session.run("1")["run_id"]
    other = make_session(persistent=False)
    problem_of(other.send("GET", f"/runs/{run_id}"), 404, "run_not_found")


def test_a_client_that_goes_away_does_not_stop_its_run(session):
    code = "import time; time.sleep(0.4); print('done')"
    with pytest.raises(httpx.ReadTimeout):
        session.send("POST", "/run", {"code": code}, timeout=0.2)
    assert session.says("1") == ""
    left = session.history()[1]
    assert (left["code"], left["exit_code"]) == (code, 0)
    assert session.result(left["run_id"])["stdout"] == "done\n"


# ---- in the background


def test_a_background_run_is_answered_at_once_and_waited_for(session):
    run_id = session.begin_held()
    going = session.result(run_id, wait=0)
    assert (going["status"], going["exit_code"]) == ("running", None)
    assert session.history()[0]["status"] == "running"
    assert session.show()["state"] == "running"
    session.let_go()
    ended = session.result(run_id)
    assert (ended["status"], ended["exit_code"]) == ("completed", 0)


def test_a_background_run_is_202_and_says_where_its_result_is(client, session):
    answer = session.send("POST", "/run", {"code": "1", "background": True})
    assert answer.status_code == 202
    location = answer.headers["Location"]
    assert location == f"{session.path}/runs/{answer.json()['run_id']}"
    assert answer.json()["status"] in ("queued", "running")
    assert client.answer("GET", f"{location}?wait=30")["text"] == "1"


def test_the_output_so_far_is_there_before_the_end(session):
    session.send("DELETE", "/files/held")
    run_id = session.begin(
        f"print('early', flush=True)\nopen('held', 'w').close()\n{ENDLESS}", timeout=60
    )
    session.until_there("held")
    while not session.result(run_id, wait=0)["stdout"]:
        pass
    assert session.result(run_id, wait=0)["stdout"] == "early\n"
    session.answer("DELETE", f"/runs/{run_id}")


def test_waiting_ends_with_its_time_where_the_run_does_not(session):
    run_id = session.begin_held()
    began = time.monotonic()
    assert session.result(run_id, wait=0.2)["status"] == "running"
    assert 0.2 <= time.monotonic() - began < 5
    session.let_go()
    assert session.result(run_id)["status"] == "completed"


@pytest.mark.parametrize("wait", ["-1", "x", "301", "1e9", "nan", ""])
def test_a_wait_that_is_no_time_is_refused(session, wait):
    run_id = session.run("1")["run_id"]
    assert session.refused("GET", f"/runs/{run_id}?wait={wait}") == {"wait"}


# ---- cancelled


def test_a_cancelled_run_is_130_and_the_memory_stays(session):
    session.run("x = 5")
    run_id = session.begin_held()
    cancelled = session.answer("DELETE", f"/runs/{run_id}")
    assert (cancelled["status"], cancelled["exit_code"]) == ("interrupted", 130)
    assert cancelled["memory"] == "kept"
    assert session.says("print(x)") == "5\n"
    # Once more changes nothing.
    assert session.answer("DELETE", f"/runs/{run_id}") == cancelled


def test_a_run_that_is_cancelled_in_the_queue_never_begins(session):
    held = session.begin_held()
    queued = session.begin("open('never', 'w').close()")
    cancelled = session.answer("DELETE", f"/runs/{queued}")
    assert (cancelled["exit_code"], cancelled["started_at"]) == (130, None)
    session.let_go()
    assert session.result(held)["exit_code"] == 0
    assert "never" not in session.paths()


# ---- the queue


def test_runs_of_a_session_take_turns_in_the_order_in_which_they_came(session):
    session.run("order = []")
    held = session.begin_held()
    ids = [session.begin(f"order.append({number})") for number in range(3)]
    assert [run["status"] for run in session.history()[:3]] == ["queued"] * 3
    session.let_go()
    assert [session.result(run_id)["exit_code"] for run_id in (held, *ids)] == [0] * 4
    assert session.says("print(order)") == "[0, 1, 2]\n"


def test_who_will_not_wait_is_409(session):
    held = session.begin_held()
    answer = session.send("POST", "/run", {"code": "1", "if_busy": "reject"})
    problem_of(answer, 409, "session_busy")
    session.let_go()
    session.result(held)
    assert session.run("1", if_busy="reject")["exit_code"] == 0


def test_a_full_queue_is_429_and_says_when_to_come_again(make_session):
    session = make_session()
    session.begin_held()
    answer = session.send("POST", "/run", {"code": "1", "background": True})
    for _ in range(100):
        if answer.status_code != 202:
            break
        answer = session.send("POST", "/run", {"code": "1", "background": True})
    problem_of(answer, 429, "queue_full")
    assert int(answer.headers["Retry-After"]) >= 1


# ---- once


def test_the_same_key_answers_the_first_run_and_runs_nothing(session):
    headers, body = {"Idempotency-Key": new_id()}, {"code": COUNT}
    first, again = (session.answer("POST", "/run", body, headers=headers) for _ in range(2))
    assert again == first
    assert session.says("print(len(open('n').read()))") == first["stdout"]
    other = session.answer("POST", "/run", body, headers={"Idempotency-Key": new_id()})
    assert other["run_id"] != first["run_id"]


def test_a_key_with_another_request_is_409(session):
    headers = {"Idempotency-Key": new_id()}
    session.answer("POST", "/run", {"code": "1"}, headers=headers)
    answer = session.send("POST", "/run", {"code": "2"}, headers=headers)
    problem_of(answer, 409, "idempotency_conflict")
    assert session.history()[0]["code"] == "1"

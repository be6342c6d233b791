"""Runs as server-sent events."""

import httpx
import pytest

from tests.conformance.client import HELD, fields_of, new_id, problem_of
from tests.support.sse import text_of


def test_every_kind_of_event_comes_in_order_and_done_is_last(session):
    events = session.stream(
        "import sys\nfrom IPython.display import display\n"
        "sys.stdout.write('out\\n')\nsys.stderr.write('err\\n')\ndisplay('shown')\n1 / 0"
    )
    assert [event.name for event in events] == ["stdout", "stderr", "display", "error", "done"]
    assert all(event.data["type"] == event.name for event in events)
    out, err, display, error, done = (event.data for event in events)
    assert out == {"type": "stdout", "content": "out\n"}
    assert err == {"type": "stderr", "content": "err\n"}
    assert display["data"] == {"text/plain": "'shown'"}
    assert "metadata" in display
    assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
    assert error["error"] == "ZeroDivisionError: division by zero"
    assert error["traceback"]
    assert done["exit_code"] == 1


def test_a_value_is_a_result_event(session):
    value, done = session.stream("6 * 7")
    assert (value.name, value.data["data"]) == ("result", {"text/plain": "42"})
    assert done.data["exit_code"] == 0


def test_done_is_the_run_without_its_output(session):
    (done,) = session.stream("x = 1")
    run = session.result(done.data["run_id"])
    output = {"stdout", "stderr", "outputs", "text", "background"}
    assert not output & done.data.keys()
    for name in ("exit_code", "duration", "status", "memory", "session_id", "data"):
        assert done.data[name] == run[name]


def test_each_event_has_an_id_of_its_own(session):
    events = session.stream("import sys\nprint(1)\nprint(2, file=sys.stderr)\n3")
    assert len({event.id for event in events}) == len(events) == 4


def test_events_come_while_the_run_goes_on(session):
    with session.streaming(f"print('early')\n{HELD}print('late')") as events:
        # The end of a line may come by itself.
        came = ""
        while came != "early\n":
            came += next(events).data["content"]
        assert session.show()["state"] == "running"
        session.let_go()
        *texts, last = events
        assert "".join(event.data["content"] for event in texts) == "late\n"
        assert ({event.name for event in texts}, last.name) == ({"stdout"}, "done")


def test_a_token_without_a_newline_comes_at_once(session):
    with session.streaming(f"print('The', end=' ', flush=True)\n{HELD}print('end')") as events:
        came = ""
        while came != "The ":
            came += next(events).data["content"]
            assert "The ".startswith(came)
        session.let_go()
        assert text_of(list(events)) == "end\n"


def test_a_stream_that_times_out_ends_with_124(session):
    events = session.stream("print('begun')\nwhile True: pass", timeout=0.3)
    done = events[-1].data
    assert (done["exit_code"], done["timed_out"]) == (124, True)
    assert text_of(events) == "begun\n"


@pytest.mark.parametrize("way", ["stream", "events"])
def test_a_broken_stream_goes_on_behind_the_last_event_and_runs_nothing(session, way):
    runs = session.show()["run_count"]
    code = f"print('a')\n{HELD}print('b')"
    with session.streaming(code) as events:
        seen = next(events)
    run_id = session.history()[0]["run_id"]
    session.let_go()
    if way == "events":
        rest = session.watch(run_id, seen.id)
    else:
        rest = session.stream(code, headers={"Last-Event-ID": seen.id})
    assert seen.data["content"] + text_of(rest) == "a\nb\n"
    assert (rest[-1].name, rest[-1].data["exit_code"]) == ("done", 0)
    assert session.show()["run_count"] == runs + 1


def test_who_has_seen_all_is_told_that_there_is_no_more(session):
    last = session.stream("print(1)")[-1]
    answer = session.send(
        "GET", f"/runs/{last.data['run_id']}/events", headers={"Last-Event-ID": last.id}
    )
    assert (answer.status_code, answer.content) == (204, b"")


def test_a_point_that_is_none_is_refused(session):
    run_id = session.run("1")["run_id"]
    headers = {"Last-Event-ID": "nonsense"}
    named = session.refused("GET", f"/runs/{run_id}/events", headers=headers)
    assert named == {"Last-Event-ID"}


def test_any_run_can_be_watched_from_its_first_event(session):
    run_id = session.begin("import sys\nsys.stdout.write('x\\n')\n7")
    session.result(run_id)
    assert [event.name for event in session.watch(run_id)] == ["stdout", "result", "done"]


def test_a_client_that_goes_away_does_not_stop_its_run(session):
    with session.streaming(f"print('early')\n{HELD}print('late')") as events:
        next(events)
    session.let_go()
    run_id = session.history()[0]["run_id"]
    assert session.result(run_id)["stdout"] == "early\nlate\n"


def test_what_is_wrong_before_the_first_event_is_an_ordinary_answer(client, session):
    answer = client.send("POST", f"/api/sessions/{new_id()}/stream", {"code": "1"})
    problem_of(answer, 404, "session_not_found")
    answer = session.send("POST", "/stream", {"code": "1", "timeout": -1})
    assert fields_of(problem_of(answer, 400, "invalid_request")) == {"timeout"}
    held = session.begin_held()
    answer = session.send("POST", "/stream", {"code": "1", "if_busy": "reject"})
    problem_of(answer, 409, "session_busy")
    session.let_go()
    session.result(held)


def test_nothing_between_may_keep_or_collect_a_stream(client, session):
    with client.http.stream("POST", f"{session.path}/stream", json={"code": "1"}) as response:
        assert isinstance(response, httpx.Response)
        assert "no-" in response.headers["Cache-Control"]
        response.read()

"""Sessions: made, shown and deleted."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.client import ENDLESS, new_id, problem_of

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def test_a_session_needs_a_language_only_and_shows_every_default(make_session):
    made = make_session().created
    assert made["language"] == "python"
    assert made["persistent"] is True
    assert made["state"] in ("starting", "idle")
    assert TIME.fullmatch(made["created_at"])
    assert made["last_run_at"] is None
    assert made["default_timeout"] is None
    assert made["sleep_after"] > 0
    assert made["on_timeout"] == "restart"
    assert (made["file_count"], made["total_size_bytes"]) == (0, 0)
    assert (made["metadata"], made["data"]) == ({}, {})
    assert (made["setup"], made["setup_status"], made["setup_result"]) == (None, None, None)
    assert made["allowInternetAccess"] is False
    assert made["allowPublicAccess"] is True
    assert made["run_count"] == 0


def test_a_session_shows_what_it_was_made_with(make_session):
    given = {
        "session_id": new_id(),
        "persistent": False,
        "default_timeout": 120,
        "data": {"user": "Ünï", "list": [1, 2.5, None, {"a": True}]},
        "metadata": {"team": "research", "n": 3},
        "allowInternetAccess": False,
        "allowPublicAccess": False,
        "sleep_after": 60,
        "on_timeout": "interrupt",
        "env": {"A": "b"},
    }
    session = make_session(**given)
    given["id"] = given.pop("session_id")
    assert {name: session.created[name] for name in given} == given
    assert {name: session.show()[name] for name in given} == given


def test_a_new_session_is_where_the_answer_says(client):
    answer = client.send("POST", "/api/sessions", {"language": "python", "persistent": False})
    assert answer.headers["Location"] == f"/api/sessions/{answer.json()['id']}"
    assert client.answer("GET", answer.headers["Location"])["id"] == answer.json()["id"]
    client.send("DELETE", answer.headers["Location"])


def test_ids_that_are_generated_cannot_be_guessed(make_session):
    ids = [make_session(persistent=False).id for _ in range(5)]
    assert all(re.fullmatch(r"sess_[A-Za-z0-9_-]{16,}", session_id) for session_id in ids)
    # No two begin alike, as those would that are made of a time or a number.
    assert len({session_id[:12] for session_id in ids}) == 5


@pytest.mark.parametrize("tail", ["a", "A.b_c-d", "prod:user:42:analysis"])
def test_an_id_within_the_rule_is_taken(make_session, tail):
    session_id = f"{new_id()}:{tail}"
    session = make_session(session_id=session_id, persistent=False)
    assert session.show()["id"] == session_id


def test_an_id_may_have_128_characters(client, make_session):
    longest = new_id().ljust(128, "x")
    assert make_session(session_id=longest, persistent=False).show()["id"] == longest
    body = {"language": "python", "session_id": longest + "x"}
    assert client.refused("POST", "/api/sessions", body) == {"session_id"}


@pytest.mark.parametrize("session_id", ["", ".a", "-a", "_a", ":a", "a/b", "a b", "ä", "a\n", 1])
def test_an_id_outside_the_rule_is_refused(client, session_id):
    body = {"language": "python", "session_id": session_id}
    assert client.refused("POST", "/api/sessions", body) == {"session_id"}


def test_a_taken_id_is_409_and_the_session_stays_as_it_is(client, make_session):
    session = make_session(data={"first": True}, persistent=False)
    body = {"language": "python", "session_id": session.id}
    problem_of(client.send("POST", "/api/sessions", body), 409, "session_exists")
    assert session.show()["data"] == {"first": True}


def test_of_several_who_want_one_id_at_once_one_gets_it(client):
    body = {"language": "python", "session_id": new_id(), "persistent": False}
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: client.send("POST", "/api/sessions", body), range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    client.send("DELETE", f"/api/sessions/{body['session_id']}")


def test_an_unknown_language_is_refused_naming_those_there_are(client):
    answer = client.send("POST", "/api/sessions", {"language": "cobol"})
    problem = problem_of(answer, 400, "invalid_request")
    assert problem["details"][0]["field"] == "language"
    assert "python" in problem["details"][0]["message"]


def test_a_session_that_is_made_twice_with_one_key_is_one(client):
    headers, body = {"Idempotency-Key": new_id()}, {"language": "python", "persistent": False}
    made = [client.answer("POST", "/api/sessions", body, headers=headers) for _ in range(2)]
    assert made[0]["id"] == made[1]["id"]
    answer = client.send("POST", "/api/sessions", {**body, "data": {"a": 1}}, headers=headers)
    problem_of(answer, 409, "idempotency_conflict")
    client.send("DELETE", f"/api/sessions/{made[0]['id']}")


def test_a_session_tells_its_runs_and_its_files(session):
    before = session.show()
    session.run("open('five', 'w').write('12345')")
    after = session.show()
    assert after["run_count"] == before["run_count"] + 1
    assert TIME.fullmatch(after["last_run_at"])
    assert after["last_run_at"] >= after["created_at"]
    assert (after["file_count"], after["total_size_bytes"]) == (1, 5)
    assert after["state"] == "idle"


def test_variables_imports_and_files_are_there_for_the_next_run(session):
    session.run("import math\nradius = 2\nopen('note', 'w').write('kept')")
    run = session.run("print(round(math.pi * radius), open('note').read())")
    assert (run["stdout"], run["memory"]) == ("6 kept\n", "kept")


def test_sessions_share_neither_memory_nor_files(session, make_session):
    session.run("secret = 1\nopen('secret', 'w').write('x')")
    run = make_session().run("import os; print(os.path.exists('secret'))\nsecret")
    assert run["stdout"] == "False\n"
    assert run["error"]["ename"] == "NameError"


def test_a_session_that_is_not_persistent_begins_each_run_anew_and_keeps_its_data(make_session):
    session = make_session(persistent=False, data={"n": 1})
    session.run(
        "import json; x = 1; open('f', 'w').close()\n"
        "json.dump({'n': 2}, open('.session_data.json', 'w'))"
    )
    run = session.run(
        "import json, os\n"
        "print('x' in globals(), os.path.exists('f'), json.load(open('.session_data.json')))"
    )
    assert (run["stdout"], run["memory"]) == ("False False {'n': 2}\n", "lost")
    assert session.show()["file_count"] == 0
    assert session.show()["data"] == {"n": 2}


def test_a_deleted_session_is_gone_with_everything_of_it(client, make_session):
    session = make_session()
    run_id = session.run("open('f', 'w').close()")["run_id"]
    answer = session.delete().json()
    assert (answer["success"], answer["id"]) == (True, session.id)
    assert TIME.fullmatch(answer["deleted_at"])
    for below in ("", "/files", "/files/f", "/runs", f"/runs/{run_id}", "/archive"):
        problem_of(session.send("GET", below), 404, "session_not_found")
    problem_of(session.send("POST", "/run", {"code": "1"}), 404, "session_not_found")
    problem_of(session.delete(), 404, "session_not_found")
    # Who takes the id afterwards finds nothing of it.
    again = make_session(session_id=session.id)
    assert (again.paths(), again.history()) == ([], [])


def test_deleting_a_session_ends_what_it_runs(make_session):
    session = make_session()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, ENDLESS, timeout=60)
        while session.show()["state"] != "running":
            time.sleep(0.01)
        assert session.delete().status_code == 200
        run = running.result(10)
    assert (run["status"], run["exit_code"], run["memory"]) == ("interrupted", 130, "lost")

"""Stored code: what a run without code runs."""

import re

import pytest

from tests.conformance.client import problem_of


@pytest.fixture
def stored(make_session):
    """A session with code in it."""
    session = make_session()
    session.answer("PUT", "/code", {"code": "print('v1')", "description": "the first"})
    return session


def test_storing_tells_how_long_it_is_and_when_that_was(make_session):
    session = make_session(persistent=False)
    answer = session.send("PUT", "/code", {"code": "print('Hello')", "description": "greets"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["success"], told["code_length"]) == (True, 14)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", told["updated_at"])
    assert session.answer("GET", "/code") == {
        "code": "print('Hello')",
        "description": "greets",
        "updated_at": told["updated_at"],
        "code_length": 14,
    }


def test_a_run_without_code_runs_what_is_stored(stored):
    run = stored.answer("POST", "/run", {})
    assert (run["exit_code"], run["stdout"]) == (0, "v1\n")
    assert stored.history()[0]["code"] == "print('v1')"


def test_a_run_with_a_timeout_and_variables_only_does_as_well(stored):
    stored.answer("PUT", "/code", {"code": "import os; print(os.environ['A'])"})
    run = stored.answer("POST", "/run", {"env": {"A": "b"}, "timeout": 20})
    assert run["stdout"] == "b\n"


def test_code_of_the_request_is_before_it_and_changes_it_not(stored):
    assert stored.says("print('once')") == "once\n"
    assert stored.answer("POST", "/run", {})["stdout"] == "v1\n"


def test_new_code_replaces_it_and_the_description_stays_unless_another_is_given(stored):
    stored.answer("PUT", "/code", {"code": "print('v2')"})
    assert stored.answer("POST", "/run", {})["stdout"] == "v2\n"
    assert stored.answer("GET", "/code")["description"] == "the first"
    stored.answer("PUT", "/code", {"code": "print('v3')", "description": "the third"})
    assert stored.answer("GET", "/code")["description"] == "the third"


def test_without_stored_code_a_run_without_code_is_refused_and_there_is_none_to_get(session):
    runs = session.show()["run_count"]
    answer = session.send("POST", "/run", {})
    assert answer.status_code in (400, 404)
    assert "code" in answer.json()["error"]
    assert session.send("GET", "/code").status_code == 404
    assert session.show()["run_count"] == runs


@pytest.mark.parametrize("body", [{}, {"code": ""}, {"code": 1}, {"code": None}])
def test_code_that_is_none_is_refused(session, body):
    assert session.refused("PUT", "/code", body) == {"code"}


def test_it_survives_the_sleep_of_the_session(stored):
    stored.answer("POST", "/sleep")
    assert stored.answer("POST", "/run", {})["stdout"] == "v1\n"


def test_a_session_that_is_not_there_has_none(client):
    problem_of(client.send("GET", "/api/sessions/nobody-s/code"), 404, "session_not_found")

"""Environment variables of a run: those that are always there, the session's, the request's."""

import pytest

from tests.conformance.client import problem_of

NAMES = ("ERA_SESSION", "ERA_SESSION_ID", "ERA_LANGUAGE", "ERA_BASE_URL", "ERA_PROXY_URL")
SHOW = "import os\nfor name in {}: print(name, os.environ.get(name))"


def environment(session, *names, **fields):
    """What the code finds under the names."""
    said = session.says(SHOW.format(list(names)), **fields)
    return dict(line.split(" ", 1) for line in said.splitlines())


def test_code_is_told_where_it_runs(session):
    found = environment(session, *NAMES)
    assert found["ERA_SESSION"] == "true"
    assert found["ERA_SESSION_ID"] == session.id
    assert found["ERA_LANGUAGE"] == "python"
    assert found["ERA_BASE_URL"].startswith("http")
    assert found["ERA_PROXY_URL"] == f"{found['ERA_BASE_URL']}/proxy/{session.id}"


def test_a_request_brings_variables_for_its_run_only(session):
    env = {"API_KEY": "secret123", "EMPTY": "", "TEXT": "a=b\n'ü'"}
    assert session.says("import os; print(os.environ['TEXT'])", env=env) == "a=b\n'ü'\n"
    assert environment(session, "API_KEY", env=env) == {"API_KEY": "secret123"}
    assert environment(session, "API_KEY", "EMPTY") == {"API_KEY": "None", "EMPTY": "None"}


def test_children_have_them_too(session):
    code = "import subprocess; subprocess.run(['sh', '-c', 'echo $API_KEY $ERA_SESSION'])"
    assert session.says(code, env={"API_KEY": "k"}) == "k true\n"


def test_a_request_cannot_replace_what_is_always_there(session):
    for name in NAMES:
        assert session.refused("POST", "/run", {"code": "1", "env": {name: "mine"}}) == {"env"}


def test_a_session_has_variables_of_its_own_and_the_request_is_before_them(make_session):
    session = make_session(env={"A": "session", "B": "session"})
    assert environment(session, "A", "B", env={"B": "run"}) == {"A": "session", "B": "run"}
    assert environment(session, "A", "B") == {"A": "session", "B": "session"}


def test_what_code_sets_itself_stays_for_the_next_run(session):
    session.run("import os; os.environ['OWN'] = 'x'")
    assert environment(session, "OWN") == {"OWN": "x"}


@pytest.mark.parametrize("env", [{"A=B": "secret"}, {"": "secret"}, {"A": "secret\0"}])
def test_a_variable_that_cannot_be_is_refused_and_its_value_is_not_repeated(session, env):
    answer = session.send("POST", "/run", {"code": "1", "env": env})
    problem = problem_of(answer, 400, "invalid_request")
    assert problem["details"][0]["field"].split(".")[0] == "env"
    assert "secret" not in answer.text

"""POST /api/execute: code in a kernel of its own, which is gone afterwards."""

import pytest

from tests.conformance.client import ENDLESS, problem_of


@pytest.fixture(scope="module")
def execute(client):
    """Run code once; returns the run."""

    def run(code, **fields):
        answer = client.send("POST", "/api/execute", {"language": "python", "code": code, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    return run


def test_the_answer_is_a_run_with_what_eras_clients_read(execute):
    run = execute("print('Hello')\nprint(2 + 2)")
    assert (run["exit_code"], run["stdout"], run["stderr"]) == (0, "Hello\n4\n", "")
    assert run["language"] == "python"
    assert run["duration"].endswith("s")
    assert run["session_id"]
    assert run["vm_id"]
    assert run["execution_time_ms"] >= 0


def test_nothing_is_there_for_the_next(client, execute):
    first = execute("data = [1, 2, 3]\nopen('f', 'w').close()")
    run = execute("import os; print(os.path.exists('f'))\nprint(data)")
    assert (run["stdout"], run["error"]["ename"]) == ("False\n", "NameError")
    answer = client.send("GET", f"/api/sessions/{first['session_id']}")
    problem_of(answer, 404, "session_not_found")


def test_files_come_with_the_code(execute):
    files = {"greeting.py": "text = 'hello'", "data/numbers.txt": "1 2 3"}
    code = "import greeting\nprint(greeting.text, open('data/numbers.txt').read())"
    assert execute(code, files=files)["stdout"] == "hello 1 2 3\n"


@pytest.mark.parametrize("path", ["../f", "/etc/f", "a/../../f", ""])
def test_a_file_that_would_lie_elsewhere_is_refused(client, path):
    body = {"language": "python", "code": "1", "files": {path: "x"}}
    (named,) = client.refused("POST", "/api/execute", body)
    assert named.split(".")[0] == "files"


@pytest.mark.parametrize("name", ["env", "envs"])
def test_variables_are_given_by_either_name(execute, name):
    code = "import os; print(os.environ['API_KEY'], os.environ['ERA_SESSION'])"
    assert execute(code, **{name: {"API_KEY": "k"}})["stdout"] == "k true\n"


def test_a_timeout_is_enforced(execute):
    run = execute(f"print('begun', flush=True)\n{ENDLESS}", timeout=0.4)
    assert (run["exit_code"], run["timed_out"], run["stdout"]) == (124, True, "begun\n")


def test_exit_codes_are_those_of_runs(execute):
    assert execute("import sys; sys.exit(3)")["exit_code"] == 3
    assert execute("1 / 0")["exit_code"] == 1


def test_what_is_missing_unknown_or_wrong_is_named(client):
    assert client.refused("POST", "/api/execute", {"language": "python"}) == {"code"}
    assert client.refused("POST", "/api/execute", {"code": "1"}) == {"language"}
    for name, value in {"timeout_ms": 30000, "timeout": 0, "language": "cobol"}.items():
        body = {"language": "python", "code": "1", name: value}
        assert client.refused("POST", "/api/execute", body) == {name}

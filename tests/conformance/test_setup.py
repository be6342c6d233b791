"""`setup`: what a session installs and runs before its first run. One package comes from PyPI."""

import time

import pytest

from tests.conformance.client import problem_of


def until_set_up(session):
    """The session as it is when its setup has ended."""
    for _ in range(3000):
        shown = session.show()
        if shown["setup_status"] not in ("pending", "running"):
            return shown
        time.sleep(0.02)
    raise AssertionError("the setup does not end")


def test_commands_run_one_after_the_other_and_the_session_is_answered_at_once(make_session):
    commands = ["mkdir -p data", "echo 'test,data' > data/test.csv", "cat data/test.csv"]
    session = make_session(setup={"commands": commands})
    assert session.created["setup_status"] in ("pending", "running")
    assert session.created["state"] in ("starting", "setting_up")
    after = until_set_up(session)
    assert after["setup_status"] == "completed"
    assert after["setup_result"]["success"] is True
    assert "test,data" in after["setup_result"]["log"]
    assert session.get("data/test.csv").content == b"test,data\n"


def test_a_run_waits_for_the_setup_and_its_clock_does_not_run_meanwhile(make_session):
    session = make_session(setup={"commands": ["sleep 0.7; echo made > made"]})
    run = session.run("print(open('made').read())", timeout=0.5)
    assert (run["exit_code"], run["stdout"]) == (0, "made\n\n")


def test_what_was_set_up_is_there_after_a_sleep(make_session):
    session = make_session(setup={"commands": ["echo kept > kept"]})
    until_set_up(session)
    session.answer("POST", "/sleep")
    assert session.says("print(open('kept').read())") == "kept\n\n"
    assert session.show()["setup_status"] == "completed"


def test_a_command_that_fails_fails_the_setup_and_says_what_happened(make_session):
    session = make_session(setup={"commands": ["echo before", "echo why >&2; exit 3", "touch no"]})
    after = until_set_up(session)
    assert after["setup_status"] == "failed"
    assert after["setup_result"]["success"] is False
    assert "why" in after["setup_result"]["log"]
    assert "no" not in session.paths()


def test_variables_of_the_setup_are_there_for_its_commands_only(make_session):
    setup = {"commands": ["echo $BUILD_TARGET > target"], "envs": {"BUILD_TARGET": "linux"}}
    session = make_session(setup=setup)
    until_set_up(session)
    code = "import os; print(open('target').read(), os.environ.get('BUILD_TARGET'))"
    assert session.says(code) == "linux\n None\n"


@pytest.mark.parametrize("pip", [["iniconfig"], {"requirements": "iniconfig>=2 # small\n"}])
def test_a_package_is_installed_and_stays(make_session, pip):
    session = make_session(setup={"pip": pip})
    assert until_set_up(session)["setup_status"] == "completed"
    code = "import iniconfig; print(iniconfig.__file__)"
    where = session.says(code)
    # It is the session's own, not one that lies next to the service.
    assert where.startswith(session.says("import os; print(os.getcwd(), end='')"))
    session.answer("POST", "/sleep")
    assert session.says(code) == where


def test_a_package_that_there_is_not_fails_the_setup(make_session):
    session = make_session(setup={"pip": ["iniconfig==0.0.0.0.1"]})
    after = until_set_up(session)
    assert after["setup_status"] == "failed"
    assert "iniconfig" in after["setup_result"]["log"]


@pytest.mark.parametrize(
    "setup",
    [{"pips": ["x"]}, {"pip": "x"}, {"pip": ["--index-url=http://x"]}, {"pip": ["a b ; c"]},
     {"npm": ["../x"]}, {"commands": "ls"}, {"commands": [1]}, {"envs": {"A": 1}}, "x", []],
)  # fmt: skip
def test_a_setup_that_is_none_is_refused(client, setup):
    answer = client.send("POST", "/api/sessions", {"language": "python", "setup": setup})
    problem = problem_of(answer, 400, "invalid_request")
    assert {detail["field"].split(".")[0] for detail in problem["details"]} == {"setup"}

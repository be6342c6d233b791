"""`.session_data.json`: the session's data as a file for its code."""

import json

import pytest

from tests.conformance.client import ENDLESS

READ = "import json\ndata = json.load(open('.session_data.json'))\n"
WRITE = "json.dump(data, open('.session_data.json', 'w'))\n"


def test_data_is_there_for_the_code_and_what_it_leaves_is_data(session):
    session.patch(data={"count": 1, "names": ["Ünï"]})
    run = session.run(f"{READ}data['count'] += 1\ndata['names'].append('b')\n{WRITE}")
    assert run["data"] == {"count": 2, "names": ["Ünï", "b"]}
    assert session.show()["data"] == run["data"]
    assert session.run("1")["data"] == run["data"]


def test_without_data_the_file_is_an_empty_object(make_session):
    assert make_session().says(f"{READ}print(data)") == "{}\n"


def test_data_is_kept_when_the_code_fails(session):
    run = session.run(f"{READ}data['failed'] = True\n{WRITE}1 / 0")
    assert (run["exit_code"], run["data"]["failed"]) == (1, True)


def test_data_is_kept_after_a_timeout(session):
    run = session.run(f"{READ}data['progress'] = 7\n{WRITE}{ENDLESS}", timeout=0.6)
    assert (run["exit_code"], run["data"]["progress"]) == (124, 7)
    assert session.show()["data"]["progress"] == 7


def test_data_is_kept_when_the_kernel_dies(session):
    run = session.run(
        f"{READ}data['dying'] = 1\nwith open('.session_data.json', 'w') as f: json.dump(data, f)\n"
        "import os; os._exit(9)"
    )
    assert (run["exit_code"], run["data"]["dying"]) == (9, 1)


@pytest.mark.parametrize("content", ["{broken", "[1]", "5", ""])
def test_what_is_no_json_object_leaves_the_data_as_it_was_and_the_run_says_so(session, content):
    session.patch(data={"before": 1})
    run = session.run(f"_ = open('.session_data.json', 'w').write({content!r})")
    assert (run["exit_code"], run["data"]) == (0, {"before": 1})
    assert run["data_detail"]
    following = session.run(f"{READ}print(data)")
    assert (following["stdout"], following["data_detail"]) == ("{'before': 1}\n", None)


def test_the_file_is_none_of_the_sessions_files(make_session):
    session = make_session(data={"a": 1})
    session.run("1")
    assert session.paths() == []
    assert session.show()["file_count"] == 0


def test_data_survives_the_sleep_of_the_session(session):
    session.patch(data={"a": 1})
    session.answer("POST", "/sleep")
    assert session.show()["data"] == {"a": 1}
    assert session.says(f"{READ}print(data)") == "{'a': 1}\n"


def test_json_values_of_every_kind_come_back_as_they_were(session):
    data = {"s": '\u2028"\\/💥', "n": [0, -1.5, 1e300, 2**53], "x": [None, True, {"": {}}]}
    session.patch(data=data)
    said = session.says(f"{READ}print(json.dumps(data))")
    assert json.loads(said) == data

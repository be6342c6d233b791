"""What ERA's guide to persistence shows."""

from tests.conformance.client import problem_of


def test_variables_files_and_imports_outlive_a_run(session):
    session.says("counter = 0\nplayer = {'name': 'Ada', 'score': 0}")
    said = session.says("counter += 1\nplayer['score'] += 10\nprint(counter, player['score'])")
    assert said == "1 10\n"
    session.says("with open('config.json', 'w') as f: _ = f.write('{\"setting\": \"value\"}')")
    assert session.says("print(open('config.json').read())") == '{"setting": "value"}\n'
    session.says("import json\nimport math\nfrom datetime import datetime")
    assert session.says("print(json.dumps({'pi': round(math.pi)}), datetime(1, 1, 1).year)")


def test_data_is_shown_with_the_session(make_session):
    data = {"user_id": "123", "workspace": "analytics"}
    assert make_session(data=data).show()["data"] == data


def test_entries_add_up_in_a_file(make_session):
    session = make_session()
    session.says("import json\nwith open('log.json', 'w') as f: json.dump([], f)")
    add = (
        "with open('log.json') as f: log = json.load(f)\n"
        "log.append({'event': 'login'})\n"
        "with open('log.json', 'w') as f: json.dump(log, f)\n"
        "print(len(log))"
    )
    assert [session.says(add) for _ in range(2)] == ["1\n", "2\n"]


def test_a_workflow_keeps_its_state_in_variables(make_session):
    session = make_session()
    session.says("state, steps = 'begun', 0")
    step = "if state == {!r}:\n    state, steps = {!r}, steps + 1\nprint(state, steps)"
    said = [
        session.says(step.format(before, after))
        for before, after in (("begun", "collected"), ("begun", "again"), ("collected", "done"))
    ]
    assert said == ["collected 1\n", "collected 1\n", "done 2\n"]


def test_what_took_long_is_kept_in_a_file(make_session):
    session = make_session()
    code = (
        "import json, os\n"
        "if os.path.exists('cache.json'):\n"
        "    result = json.load(open('cache.json'))\n"
        "    print('cached', result)\n"
        "else:\n"
        "    result = sum(range(1000))\n"
        "    with open('cache.json', 'w') as f: json.dump(result, f)\n"
        "    print('computed', result)"
    )
    assert [session.says(code) for _ in range(2)] == ["computed 499500\n", "cached 499500\n"]


def test_state_is_begun_once_only(make_session):
    session = make_session()
    code = "if 'runs' not in dir(): runs = 0\nruns += 1\nprint(runs)"
    assert [session.says(code) for _ in range(3)] == ["1\n", "2\n", "3\n"]


def test_data_that_a_client_has_is_changed_by_patch(session):
    """ERA's guide gives `update_data` with a run, which its server ignores: here it is refused."""
    body = {"code": "1", "update_data": {"last_result": 42}}
    answer = session.send("POST", "/run", body)
    assert problem_of(answer, 400, "invalid_request")["details"][0]["field"] == "update_data"
    assert session.patch(data={"last_result": 42})["data"] == {"last_result": 42}

"""What ERA's guide to data and communication shows."""

LOAD = "import json\nwith open('.session_data.json') as f: data = json.load(f)\n"
STORE = "with open('.session_data.json', 'w') as f: json.dump(data, f, indent=2)\n"
COUNT = (
    "import json; from datetime import datetime; data = json.load(open('.session_data.json')); "
    "data['count'] += 1; data['history'].append(datetime.now().isoformat()); "
    "json.dump(data, open('.session_data.json', 'w')); print(f\"Count: {data['count']}\")"
)
LIMITER = (
    "import time\n"
    "calls = [at for at in data.setdefault('calls', []) if time.time() - at < 60]\n"
    "if len(calls) >= 2:\n"
    "    print('come again later')\n"
    "    exit(1)\n"
    "data['calls'] = [*calls, time.time()]\n"
)
MACHINE = (
    "import os\n"
    "moves = {('idle', 'start'): 'processing', ('processing', 'complete'): 'completed'}\n"
    "state = data.setdefault('state', 'idle')\n"
    "data['state'] = moves.get((state, os.environ.get('EVENT')), state)\n"
    "print('state:', data['state'])\n"
)


def test_code_reads_the_data_that_a_session_was_made_with(make_session):
    data = {"counter": 0, "users": ["alice", "bob"], "config": {"theme": "dark", "max": 100}}
    session = make_session(persistent=True, data=data)
    said = session.says(f"{LOAD}print(data['counter'], data['users'], data['config']['theme'])")
    assert said == "0 ['alice', 'bob'] dark\n"


def test_what_code_writes_is_in_the_answer_and_in_the_session(make_session):
    session = make_session(data={"counter": 0, "users": ["alice"]})
    run = session.run(f"{LOAD}data['counter'] += 1\ndata['users'].append('charlie')\n{STORE}")
    assert (run["exit_code"], run["stdout"], run["session_id"]) == (0, "", session.id)
    assert run["data"] == {"counter": 1, "users": ["alice", "charlie"]}
    assert session.show()["data"] == run["data"]


def test_a_counter_counts_on_with_each_run(make_session):
    session = make_session(data={"count": 0, "history": []})
    assert session.says(COUNT) == "Count: 1\n"
    run = session.run(COUNT)
    assert run["stdout"] == "Count: 2\n"
    assert (run["data"]["count"], len(run["data"]["history"])) == (2, 2)


def test_metadata_is_for_the_api_only(make_session):
    metadata = {"environment": "production", "team": "science", "cost_center": "eng"}
    session = make_session(metadata=metadata)
    assert session.show()["metadata"] == metadata
    assert session.says(f"{LOAD}print(data)") == "{}\n"


def test_a_rate_limiter_keeps_its_calls_in_the_data(make_session):
    session = make_session()
    codes = [session.run(LOAD + LIMITER + STORE)["exit_code"] for _ in range(3)]
    assert codes == [0, 0, 1]
    assert len(session.show()["data"]["calls"]) == 2


def test_a_state_machine_moves_by_the_events_of_its_runs(make_session):
    session = make_session()
    code = LOAD + MACHINE + STORE
    said = [session.says(code, env={"EVENT": event}) for event in ("start", "start", "complete")]
    assert said == ["state: processing\n", "state: processing\n", "state: completed\n"]
    assert session.show()["data"] == {"state": "completed"}


def test_without_leave_code_does_not_reach_the_internet(make_session):
    session = make_session()
    assert session.created["allowInternetAccess"] is False
    run = session.run(
        "import socket\nsocket.create_connection(('1.1.1.1', 80), timeout=2)", timeout=10
    )
    assert run["exit_code"] == 1

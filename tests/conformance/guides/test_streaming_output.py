"""What ERA's guide to streaming and its examples show, read as its clients read it."""

import json

from tests.support.sse import text_of

COUNTDOWN = (
    "import time\nfor i in range(3, 0, -1):\n    print('Countdown:', i)\n    time.sleep(0.02)\n"
    "print('Done!')"
)


def as_eras_clients_read(session, code, **fields):
    """What is behind "data: " on a line of its own; nothing else is looked at."""
    with session.client.http.stream(
        "POST", f"{session.path}/stream", json={"code": code, **fields}
    ) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        return [
            json.loads(line.removeprefix("data: "))
            for line in response.iter_lines()
            if line.startswith("data: ")
        ]


def test_a_countdown(session):
    *events, done = as_eras_clients_read(session, COUNTDOWN)
    assert {event["type"] for event in events} == {"stdout"}
    said = "".join(event["content"] for event in events)
    assert said == "Countdown: 3\nCountdown: 2\nCountdown: 1\nDone!\n"
    assert (done["type"], done["exit_code"]) == ("done", 0)
    assert done["duration"].endswith("s")


def test_tokens_without_newlines_put_together_are_the_text(session):
    events = session.stream(
        "import time\nfor word in 'The quick brown fox'.split():\n"
        "    print(word, end=' ', flush=True); time.sleep(0.02)\nprint()"
    )
    assert text_of(events) == "The quick brown fox \n"
    assert len(events) > 2


def test_one_json_object_a_line(session):
    events = session.stream(
        "import json\nfor token in ('Hello', '!', ' How'):\n"
        "    print(json.dumps({'role': 'assistant', 'content': token}), flush=True)"
    )
    tokens = [json.loads(line)["content"] for line in text_of(events).splitlines()]
    assert tokens == ["Hello", "!", " How"]


def test_a_progress_bar_comes_as_it_is_drawn(session):
    events = session.stream(
        "import time\nfor done in range(0, 101, 50):\n"
        "    print(f'\\r[{done:3}%]', end='', flush=True); time.sleep(0.05)\nprint('\\n✓')"
    )
    assert text_of(events) == "\r[  0%]\r[ 50%]\r[100%]\n✓\n"


def test_standard_error_comes_as_events_of_its_own(session):
    events = session.stream("import sys\nprint('[ERROR] disk', file=sys.stderr)\nprint('on')")
    assert text_of(events, "stderr") == "[ERROR] disk\n"
    assert text_of(events) == "on\n"


def test_an_exception_is_an_event_and_then_done(session):
    *_, error, done = as_eras_clients_read(session, "print('begun')\nraise ValueError('bad')")
    assert (error["type"], error["error"]) == ("error", "ValueError: bad")
    assert (done["type"], done["exit_code"]) == ("done", 1)


def test_a_timeout_and_variables_go_with_a_stream_as_with_a_run(session):
    events = session.stream("import os; print(os.environ['A'])", timeout=300, env={"A": "b"})
    assert text_of(events) == "b\n"

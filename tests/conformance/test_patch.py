"""PATCH: what is given changes, null clears, the answer is the session as it is then."""

from typing import Any

import pytest

CLEARED: dict[str, tuple[Any, Any]] = {
    "default_timeout": (60, None),
    "on_timeout": ("interrupt", "restart"),
    "allowPublicAccess": (False, True),
    "metadata": ({"a": 1}, {}),
    "data": ({"a": [1]}, {}),
}


def test_the_answer_has_the_whole_session_twice(session):
    answer = session.answer("PATCH", body={"default_timeout": 300})
    assert answer["success"] is True
    assert answer["id"] == session.id
    assert answer["updated_at"].endswith("Z")
    assert answer["metadata"] == answer["session"] == session.show()
    assert answer["metadata"]["default_timeout"] == 300


@pytest.mark.parametrize("name", CLEARED)
def test_a_field_is_set_and_cleared_by_null(session, name):
    value, cleared = CLEARED[name]
    others = {each: shown for each, shown in session.patch().items() if each != name}
    assert session.patch(**{name: value})[name] == value
    assert session.show()[name] == value
    after = session.patch(**{name: None})
    assert after.pop(name) == cleared
    assert after == others


def test_several_fields_change_at_once(session):
    changes = {"default_timeout": 600, "allowInternetAccess": True, "allowPublicAccess": False}
    after = session.patch(**changes)
    assert {name: after[name] for name in changes} == changes
    after = session.patch(**dict.fromkeys(changes))
    assert [after[name] for name in changes] == [None, False, True]


def test_one_wrong_field_and_nothing_changes(session):
    before = session.show()
    body = {"default_timeout": -1, "metadata": {"new": 1}, "allowPublicAccess": "no"}
    assert session.refused("PATCH", body=body) == {"default_timeout", "allowPublicAccess"}
    assert session.show() == before


def test_whole_seconds_are_written_without_a_fraction(session):
    """ERA's own tests compare them as text."""
    session.patch(default_timeout=120, sleep_after="5m")
    text = session.send("GET").text
    assert '"default_timeout":120,' in text.replace(" ", "")
    assert '"sleep_after":300,' in text.replace(" ", "")
    assert session.patch(sleep_after=1e300)["sleep_after"] == 1e300
    session.patch(default_timeout=None, sleep_after=None)


@pytest.mark.parametrize(
    ("given", "shown"),
    [(90, 90), (0.5, 0.5), ("90s", 90), ("5m", 300), ("1h", 3600), ("2d", 172800),
     ("never", "never")],
)  # fmt: skip
def test_sleep_after_is_seconds_a_duration_or_never(session, given, shown):
    assert session.patch(sleep_after=given)["sleep_after"] == shown
    assert session.patch(sleep_after=None)["sleep_after"] > 1


@pytest.mark.parametrize("given", [0, -1, "", "5", "5 m", "1w", "always", True, [], "-5m", "0s"])
def test_a_sleep_after_that_is_none_is_refused(client, session, given):
    assert session.refused("PATCH", body={"sleep_after": given}) == {"sleep_after"}
    body = {"language": "python", "sleep_after": given}
    assert client.refused("POST", "/api/sessions", body) == {"sleep_after"}


def test_a_change_that_needs_a_new_kernel_says_when_it_applies(make_session):
    session = make_session()
    session.run("x = 1")
    answer = session.answer("PATCH", body={"allowInternetAccess": True})
    assert answer["session"]["allowInternetAccess"] is True
    assert "kernel" in answer["note"]
    # The kernel that is there goes on as it was.
    assert session.says("print(x)") == "1\n"
    assert session.answer("PATCH", body={"allowPublicAccess": True})["note"] is None


def test_the_next_run_finds_the_data(session):
    session.patch(data={"n": 5})
    said = session.says("import json; print(json.load(open('.session_data.json'))['n'])")
    assert said == "5\n"


@pytest.mark.parametrize("name", ["language", "id", "persistent", "run_count", "env"])
def test_what_cannot_be_changed_is_refused(session, name):
    assert session.refused("PATCH", body={name: session.show()[name]}) == {name}

"""GET /api/sessions: pages and filters. Others' sessions may be there, too."""

import pytest

from tests.conformance.client import new_id

FEW = 4


@pytest.fixture(scope="module")
def tag():
    """What the metadata of this file's sessions has under `tag`."""
    return new_id()


@pytest.fixture(scope="module")
def sessions(client, tag):
    """A few sessions, oldest first; those at odd places are of team x."""
    made = [
        client.create(
            persistent=False, metadata={"tag": tag, "team": "x" if n % 2 else "y", "n": n}
        )
        for n in range(FEW)
    ]
    yield made
    for session in made:
        session.delete()


@pytest.fixture(scope="module")
def listed(client, sessions, tag):
    """The ids of this file's sessions on the page that a query asks for."""

    def ask(query=""):
        page = client.answer("GET", f"/api/sessions?metadata.tag={tag}{query}")
        assert page["count"] == len(page["sessions"])
        return [session["id"] for session in page["sessions"]]

    return ask


def test_sessions_are_listed_whole_oldest_first(client, sessions, tag):
    page = client.answer("GET", f"/api/sessions?metadata.tag={tag}")
    assert page["sessions"] == [session.show() for session in sessions]
    assert (page["count"], page["next_cursor"]) == (FEW, None)


def test_without_a_filter_all_are_counted(client, sessions):
    page = client.answer("GET", "/api/sessions?limit=1000")
    ids = [session["id"] for session in page["sessions"]]
    assert page["count"] == len(ids)
    assert {session.id for session in sessions} <= set(ids)


@pytest.mark.parametrize("limit", [1, 3, FEW])
def test_pages_put_together_are_the_whole_list(client, sessions, tag, limit):
    found, cursor = [], ""
    while cursor is not None:
        query = f"metadata.tag={tag}&limit={limit}{cursor}"
        page = client.answer("GET", f"/api/sessions?{query}")
        assert page["count"] <= limit
        found += [session["id"] for session in page["sessions"]]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert found == [session.id for session in sessions]


def test_metadata_filters_by_value_and_all_must_match(sessions, listed):
    ids = [session.id for session in sessions]
    assert listed("&metadata.team=x") == ids[1::2]
    assert listed("&metadata.team=x&metadata.n=3") == [ids[3]]
    assert listed("&metadata.team=z") == []
    assert listed("&metadata.none=x") == []


def test_language_filters(sessions, listed):
    assert listed("&language=python") == [session.id for session in sessions]
    assert listed("&language=cobol") == []


def test_state_filters_by_what_sessions_do_now(client, make_session, tag):
    def listed(state):
        page = client.answer("GET", f"/api/sessions?metadata.states={tag}&state={state}")
        return {session["id"] for session in page["sessions"]}

    asleep, awake, busy = (make_session(metadata={"states": tag}) for _ in range(3))
    asleep.answer("POST", "/sleep")
    awake.answer("POST", "/wake")
    busy.begin_held()
    assert listed("sleeping") == {asleep.id}
    assert listed("idle") == {awake.id}
    assert listed("running") == {busy.id}


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1.5"])
def test_a_limit_out_of_range_is_refused(client, limit):
    assert client.refused("GET", f"/api/sessions?limit={limit}") == {"limit"}


def test_a_state_or_cursor_that_is_none_is_refused(client):
    assert client.refused("GET", "/api/sessions?state=tired") == {"state"}
    assert client.refused("GET", "/api/sessions?cursor=nonsense") == {"cursor"}

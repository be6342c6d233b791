"""GET /api/sessions: order, pages, filters."""

import pytest


async def listed(api, query=""):
    """The ids on a page."""
    answer = await api.send("GET", f"/api/sessions{query}")
    assert answer.status == 200, answer
    assert answer.json.keys() == {"sessions", "count", "next_cursor"}
    assert answer.json["count"] == len(answer.json["sessions"])
    return [session["id"] for session in answer.json["sessions"]]


async def make(api, *names, **fields):
    for name in names:
        await api.create(name, persistent=False, **fields)


async def test_without_sessions_the_list_is_empty(api):
    answer = await api.send("GET", "/api/sessions")
    assert answer.json == {"sessions": [], "count": 0, "next_cursor": None}


async def test_sessions_are_listed_whole_oldest_first(api):
    await make(api, "c", "a", "b", metadata={"x": 1}, data={"y": 2}, default_timeout=5)
    answer = await api.send("GET", "/api/sessions")
    assert [session["id"] for session in answer.json["sessions"]] == ["c", "a", "b"]
    assert answer.json["sessions"] == [await api.session(name) for name in "cab"]


async def test_a_limit_that_takes_all_has_no_next_page(api):
    await make(api, "a", "b")
    for limit in (2, 3, 1000):
        assert (await api.send("GET", f"/api/sessions?limit={limit}")).json["next_cursor"] is None


async def test_pages_go_on_behind_a_session_made_or_deleted_meanwhile(api):
    await make(api, "a", "b", "c", "d")
    first = (await api.send("GET", "/api/sessions?limit=2")).json
    await api.send("DELETE", "/api/sessions/a")
    await make(api, "e")
    assert await listed(api, f"?cursor={first['next_cursor']}") == ["c", "d", "e"]


async def test_more_sessions_than_the_store_reads_at_once_are_all_listed(api, monkeypatch):
    monkeypatch.setattr("kernelsvc.store.sessions._PAGE", 3)
    names = [f"s{number}" for number in range(10)]
    await make(api, *names)
    assert await listed(api) == names
    assert await listed(api, "?limit=10") == names
    assert await listed(api, "?limit=9") == names[:9]
    assert await listed(api, "?metadata.a=b") == []


async def test_a_page_is_a_hundred_sessions_unless_asked_otherwise(api):
    await make(api, *(f"s{number}" for number in range(101)))
    first = (await api.send("GET", "/api/sessions")).json
    assert first["count"] == 100
    assert await listed(api, f"?cursor={first['next_cursor']}") == ["s100"]
    assert len(await listed(api, "?limit=101")) == 101


# ---- filters


@pytest.mark.parametrize(
    ("value", "asked"),
    [("ü 💥&=", "%C3%BC%20%F0%9F%92%A5%26%3D"), (1, "1"), (1.5, "1.5"), (True, "true"),
     (False, "false"), ("true", "true"), ("", "")],
)  # fmt: skip
async def test_metadata_of_any_type_is_found_as_json_writes_it(api, value, asked):
    await make(api, "a", metadata={"k.1": value})
    await make(api, "b", metadata={"k.1": "other"})
    await make(api, "c")
    assert await listed(api, f"?metadata.k.1={asked}") == ["a"]


async def test_a_session_without_the_key_matches_no_value(api):
    await make(api, "a")
    for value in ("None", "null", "", "undefined"):
        assert await listed(api, f"?metadata.key={value}") == []


async def test_filters_and_pages_go_together(api):
    for number in range(9):
        await make(api, f"s{number}", metadata={"odd": str(number % 2)})
    answer = (await api.send("GET", "/api/sessions?limit=3&metadata.odd=1")).json
    assert [session["id"] for session in answer["sessions"]] == ["s1", "s3", "s5"]
    rest = await listed(api, f"?limit=3&metadata.odd=1&cursor={answer['next_cursor']}")
    assert rest == ["s7"]


async def test_language_filters_by_the_languages_name(api):
    await make(api, "a", "b")
    assert await listed(api, "?language=python") == ["a", "b"]
    assert await listed(api, "?language=py") == ["a", "b"]
    assert await listed(api, "?language=cobol") == []

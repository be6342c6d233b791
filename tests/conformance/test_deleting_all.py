"""DELETE /api/sessions: every session of the caller's."""


def test_all_sessions_are_deleted_and_named(client, all_sessions_may_go):
    ids = {client.create(persistent=False).id for _ in range(3)}
    answer = client.answer("DELETE", "/api/sessions")
    assert answer["success"] is True
    assert ids <= set(answer["deleted_sessions"])
    assert answer["deleted_count"] == len(answer["deleted_sessions"])
    assert answer["deleted_at"].endswith("Z")
    listed = client.answer("GET", "/api/sessions")
    assert (listed["sessions"], listed["count"]) == ([], 0)
    assert client.answer("DELETE", "/api/sessions")["deleted_count"] == 0

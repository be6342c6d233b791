"""POST …/duplicate: a session like another, and independent of it from then on."""

import pytest

from tests.conformance.client import Session, new_id, problem_of


@pytest.fixture
def source(make_session):
    """A session with files, data and code."""
    session = make_session(data={"origin": True}, metadata={"team": "x"}, default_timeout=90)
    session.says("import os; os.makedirs('d'); open('d/f', 'w').write('content'); x = 41")
    session.answer("PUT", "/code", {"code": "print('stored')"})
    return session


@pytest.fixture
def duplicate(client):
    """Duplicate a session; the copies are gone when the test ends."""
    made = []

    def make(session, **fields):
        answer = session.send("POST", "/duplicate", fields)
        assert answer.status_code == 201, answer.text
        made.append(Session(client, answer.json()))
        return made[-1]

    yield make
    for session in made:
        session.delete()


@pytest.mark.parametrize("name", ["new_id", "id"])
def test_the_copy_has_the_id_that_is_asked_for_by_either_name(source, duplicate, name):
    session_id = new_id()
    copy = duplicate(source, **{name: session_id})
    assert copy.id == session_id
    assert copy.created["source_session_id"] == source.id
    assert copy.show()["id"] == session_id


def test_without_an_id_the_copy_gets_one(source, duplicate):
    assert duplicate(source).id != source.id


def test_files_data_and_settings_are_the_same(source, duplicate):
    copy = duplicate(source)
    assert copy.get("d/f").content == b"content"
    of_source, of_copy = source.show(), copy.show()
    for name in ("language", "persistent", "data", "metadata", "default_timeout", "file_count",
                 "total_size_bytes", "allowInternetAccess", "allowPublicAccess"):  # fmt: skip
        assert of_copy[name] == of_source[name], name
    assert (of_copy["last_run_at"], of_copy["run_count"]) == (None, 0)
    assert copy.answer("POST", "/run", {})["stdout"] == "stored\n"


def test_data_that_is_given_is_the_copys(source, duplicate):
    copy = duplicate(source, data={"cloned_from": source.id})
    assert copy.show()["data"] == {"cloned_from": source.id}
    assert source.show()["data"] == {"origin": True}


def test_what_is_done_in_one_does_not_show_in_the_other(source, duplicate):
    copy = duplicate(source)
    copy.put("d/f", b"changed")
    copy.says("open('new', 'w').close()")
    copy.patch(data={"copy": True})
    assert source.get("d/f").content == b"content"
    assert source.paths() == ["d/f"]
    assert source.show()["data"] == {"origin": True}
    assert source.delete().status_code == 200
    assert copy.get("d/f").content == b"changed"


def test_what_the_copy_says_of_its_memory_is_true(source, duplicate):
    run = duplicate(source).run("print('x' in globals())")
    assert run["stdout"] == f"{run['memory'] != 'lost'}\n"


def test_a_taken_id_is_409_and_a_bad_one_400(source, make_session):
    taken = make_session(persistent=False)
    answer = source.send("POST", "/duplicate", {"new_id": taken.id})
    problem_of(answer, 409, "session_exists")
    assert source.refused("POST", "/duplicate", {"new_id": "a/b"}) == {"new_id"}
    assert source.refused("POST", "/duplicate", {"newid": "a"}) == {"newid"}


def test_a_session_that_is_not_there_cannot_be_duplicated(client):
    answer = client.send("POST", f"/api/sessions/{new_id()}/duplicate", {})
    problem_of(answer, 404, "session_not_found")

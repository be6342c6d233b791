"""What ERA's guide to sessions shows."""

import time

from tests.conformance.client import new_id

LISTED = {
    "id",
    "created_at",
    "last_run_at",
    "language",
    "persistent",
    "file_count",
    "total_size_bytes",
}


def test_a_session_without_an_id_gets_one(make_session):
    assert make_session(persistent=True).id.startswith("sess_")


def test_a_session_by_a_name_of_ones_own_from_its_first_run_to_its_end(client, make_session):
    session = make_session(persistent=True, session_id=f"{new_id()}-processor")
    assert session.says("rows = []\nprint('ready')") == "ready\n"
    assert session.says("rows.append({'value': 42})\nprint('rows:', len(rows))") == "rows: 1\n"
    said = session.says("rows.append({'value': 99})\nprint(rows)")
    assert said == "[{'value': 42}, {'value': 99}]\n"
    assert session.show()["language"] == "python"
    session.patch(default_timeout=300)
    session.patch(allowInternetAccess=False)
    after = session.patch(default_timeout=600, allowInternetAccess=True, allowPublicAccess=False)
    assert (after["default_timeout"], after["allowInternetAccess"]) == (600, True)
    assert after["allowPublicAccess"] is False
    assert session.delete().json()["success"] is True


def test_data_and_metadata_are_stored_with_a_session(make_session):
    data = {"user_id": "123", "project": "analysis", "tags": ["production", "analytics"]}
    metadata = {"version": "1.0", "environment": "production"}
    session = make_session(session_id=f"{new_id()}-workspace", data=data, metadata=metadata)
    shown = session.show()
    assert (shown["data"], shown["metadata"]) == (data, metadata)


def test_the_list_has_what_clients_read(client, make_session):
    session = make_session(persistent=False)
    listed = client.answer("GET", "/api/sessions?limit=1000")
    (mine,) = [each for each in listed["sessions"] if each["id"] == session.id]
    assert mine.keys() >= LISTED
    assert listed["count"] >= 1


def test_what_one_session_knows_another_does_not(make_session):
    make_session().run("secret = 'swordfish'")
    run = make_session().run("print(secret)")
    assert (run["exit_code"], run["error"]["ename"]) == (1, "NameError")
    assert "name 'secret' is not defined" in run["stderr"]


def test_an_id_may_be_namespaced(make_session):
    session = make_session(session_id=f"prod:user:{new_id()}:{int(time.time())}")
    assert session.says("print('Hello')") == "Hello\n"


def test_a_status_tells_whether_to_make_the_session(client, make_session):
    session_id = new_id()
    assert client.send("GET", f"/api/sessions/{session_id}").status_code == 404
    make_session(session_id=session_id)
    assert client.send("GET", f"/api/sessions/{session_id}").status_code == 200


def test_a_workflow_goes_on_from_stage_to_stage(session):
    assert session.says("found = [1, 2, 3]\nprint(len(found), 'found')") == "3 found\n"
    assert session.says("doubled = [2 * n for n in found]\nprint(doubled)") == "[2, 4, 6]\n"
    assert session.says("print('total:', sum(doubled))") == "total: 12\n"

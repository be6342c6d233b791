"""Refusals: one shape, the right status, the field at fault, and nothing changed by them."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

from tests.conformance.client import new_id, problem_of

BODIES = [
    ("POST", "/api/sessions", {"language": "python"}),
    ("PATCH", "/api/sessions/{id}", {}),
    ("POST", "/api/sessions/{id}/run", {"code": "1"}),
    ("POST", "/api/sessions/{id}/stream", {"code": "1"}),
]
OF_A_SESSION = [
    ("GET", "", None),
    ("PATCH", "", {}),
    ("DELETE", "", None),
    ("POST", "/run", {"code": "1"}),
    ("POST", "/stream", {"code": "1"}),
    ("GET", "/runs", None),
    ("GET", "/runs/run_0", None),
    ("DELETE", "/runs/run_0", None),
    ("GET", "/runs/run_0/events", None),
    ("POST", "/interrupt", None),
    ("POST", "/restart", None),
    ("POST", "/sleep", None),
    ("POST", "/wake", None),
    ("GET", "/files", None),
    ("GET", "/files/f", None),
    ("DELETE", "/files/f", None),
    ("GET", "/archive", None),
]


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
def test_an_unknown_field_is_named(client, session, method, path, body):
    before = session.show()
    named = client.refused(method, path.format(id=session.id), {**body, "timeot": 5})
    assert named == {"timeot"}
    assert session.show() == before


def test_a_timeout_in_milliseconds_is_refused_rather_than_run_for_the_default(session):
    assert session.refused("POST", "/run", {"code": "1", "timeout_ms": 500}) == {"timeout_ms"}


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
def test_a_body_that_is_no_json_object_is_refused(client, session, method, path, body):
    for content in ("{", "[]", "null", '"text"', "1", '{"code": NaN'):
        answer = client.send(
            method,
            path.format(id=session.id),
            content=content,
            headers={"Content-Type": "application/json"},
        )
        problem_of(answer, 400, "invalid_request")


def test_every_wrong_field_is_named_at_once(client):
    body = {"language": 1, "persistent": "yes", "data": [], "metadata": "x", "default_timeout": {}}
    assert client.refused("POST", "/api/sessions", body) == body.keys()


def test_a_field_that_is_missing_is_named(client):
    assert client.refused("POST", "/api/sessions", {}) == {"language"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("code", 1), ("code", None), ("code", " \n"), ("env", []), ("env", {"A": 1}), ("stdin", 1),
     ("background", 1), ("on_timeout", "ignore"), ("if_busy", "wait"), ("callback_url", "x")],
)  # fmt: skip
def test_a_field_of_a_run_that_is_wrong_is_named(session, name, value):
    runs = session.show()["run_count"]
    (named,) = session.refused("POST", "/run", {"code": "1", name: value})
    assert named.split(".")[0] == name
    assert session.show()["run_count"] == runs


def test_another_content_type_is_415(client):
    answer = client.send("POST", "/api/sessions", content="language=python")
    answer = client.http.post(
        "/api/sessions",
        content="a=b",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    problem_of(answer, 415, "unsupported_media_type")


def test_a_body_that_is_too_large_is_413_before_it_is_sent(client):
    address = urlsplit(str(client.http.base_url))
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    connection = kinds[address.scheme](address.hostname, address.port, timeout=30)
    connection.putrequest("POST", "/api/sessions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(1 << 40))
    for name in {"Authorization"} & {name.title() for name in client.http.headers}:
        connection.putheader(name, client.http.headers[name])
    connection.endheaders()
    with connection.getresponse() as answer:
        problem = json.load(answer)
    connection.close()
    assert (answer.status, problem["code"]) == (413, "too_large")


@pytest.mark.parametrize(("method", "below", "body"), OF_A_SESSION)
def test_a_session_that_is_not_there_is_404_everywhere(client, method, below, body):
    answer = client.send(method, f"/api/sessions/{new_id()}{below}", body)
    problem_of(answer, 404, "session_not_found")


def test_a_file_for_a_session_that_is_not_there_is_404(client):
    for below in ("files/f", "archive"):
        answer = client.send("PUT", f"/api/sessions/{new_id()}/{below}", content=b"x")
        problem_of(answer, 404, "session_not_found")


def test_a_run_that_is_not_there_is_404(session):
    for method, below in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        problem_of(session.send(method, f"/runs/run_0{below}"), 404, "run_not_found")


def test_an_unknown_path_is_404(client):
    for method in ("GET", "POST", "DELETE"):
        problem_of(client.send(method, "/api/nothing"), 404, "not_found")


def test_a_wrong_method_is_405_and_the_right_ones_are_told(client, session):
    for path, allowed in (
        ("/api/sessions", {"GET", "POST", "DELETE"}),
        (session.path, {"GET", "PATCH", "DELETE"}),
    ):
        answer = client.send("PUT", path, {})
        problem_of(answer, 405, "method_not_allowed")
        assert set(answer.headers["Allow"].split(", ")) == allowed


def test_an_unknown_query_parameter_is_named(client, session):
    for path in ("/api/sessions", session.path, f"{session.path}/runs"):
        assert client.refused("GET", f"{path}?limti=5") == {"limti"}


def test_each_refusal_has_an_id_of_its_own(client):
    ids = {client.send("GET", "/nothing").json()["request_id"] for _ in range(5)}
    assert len(ids) == 5


ODD = [
    {"language": "python", "session_id": "x" * 100_000},
    {"language": "python\ud800"},
    {"language": "python", "default_timeout": 10**400},
    {"language": "python", "env": {"A=B": "x"}},
    {"language": "python", "limits": {"memory": -1}},
    {"language": "python", "metadata": json.loads("[" * 500 + "]" * 500)},
    {"": ""},
    {"language": None},
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_bad_input_is_never_a_500(client, body):
    answer = client.http.post(
        "/api/sessions", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    problem_of(answer, 400, "invalid_request")

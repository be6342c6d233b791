"""A session's ports, reached from outside: a server of its code's, or its stored code."""

import json

import pytest

from tests.conformance.client import new_id, problem_of

SERVER = """
import http.server, json, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        told = {'method': self.command, 'path': self.path, 'body': body.decode()}
        self.send_response(201 if self.command == 'POST' else 200)
        self.send_header('X-Mine', 'yes')
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())
    do_GET = do_PUT = do_DELETE = do_POST
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(('0.0.0.0', 8000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""
ECHO = """
import json, os
if os.environ.get('ERA_REQUEST_MODE') == 'proxy':
    names = ('METHOD', 'PATH', 'QUERY', 'BODY')
    told = {name.lower(): os.environ['ERA_HTTP_' + name] for name in names}
    told['header'] = json.loads(os.environ['ERA_HTTP_HEADERS']).get('x-given')
    told['session'] = os.environ['ERA_SESSION_ID']
    print(json.dumps(told))
else:
    print('not a request')
"""


@pytest.fixture(scope="module")
def serving(client):
    """A session with a server on its port 8000."""
    session = client.create()
    session.says(SERVER)
    yield session
    session.delete()


@pytest.fixture(scope="module")
def stored(client):
    """A session with code that answers requests, and no server."""
    session = client.create()
    session.answer("PUT", "/code", {"code": ECHO})
    yield session
    session.delete()


def at(session, path="", port=8000):
    """Where the session's port is."""
    return f"/proxy/{session.id}/{port}{path}"


# ---- where it is


def test_the_url_of_a_port_is_told_by_both_names(client, serving):
    host = serving.answer("GET", "/host?port=8000")
    assert host["url"] == host["base_url"]
    assert host["url"].endswith(at(serving))
    assert (host["session_id"], host["port"]) == (serving.id, 8000)
    assert client.http.get(f"{host['url']}/x").json()["path"] == "/x"


@pytest.mark.parametrize("query", ["", "?port=0", "?port=65536", "?port=x", "?port=", "?port=-1"])
def test_a_port_that_is_none_is_refused(serving, query):
    assert serving.refused("GET", f"/host{query}") == {"port"}


def test_a_session_that_is_not_there_has_no_ports(client):
    session_id = new_id()
    answer = client.send("GET", f"/api/sessions/{session_id}/host?port=80")
    problem_of(answer, 404, "session_not_found")
    problem_of(client.send("GET", f"/proxy/{session_id}/80/"), 404, "session_not_found")


# ---- a server of the code's


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_request_is_relayed_to_the_server_that_the_code_runs(client, serving, method):
    body = b"" if method in ("GET", "DELETE") else b'{"event": "test"}'
    answer = client.send(method, at(serving, "/a/b?c=d&e=%20"), content=body)
    assert answer.status_code == (201 if method == "POST" else 200)
    assert answer.headers["X-Mine"] == "yes"
    assert answer.json() == {"method": method, "path": "/a/b?c=d&e=%20", "body": body.decode()}


def test_a_server_answers_while_the_session_runs_something_else(client, serving):
    held = serving.begin_held()
    assert client.send("GET", at(serving, "/")).status_code == 200
    serving.let_go()
    assert serving.result(held)["exit_code"] == 0


def test_without_public_access_it_is_403_until_it_is_given_back(client, serving):
    serving.patch(allowPublicAccess=False)
    answer = client.send("GET", at(serving, "/"))
    assert answer.status_code == 403
    assert answer.json()["error"]
    serving.patch(allowPublicAccess=True)
    assert client.send("GET", at(serving, "/")).status_code == 200


# ---- stored code


def test_where_nothing_listens_the_stored_code_is_told_the_request_and_answers(client, stored):
    answer = client.send(
        "POST",
        at(stored, "/hook?id=1&type=event"),
        content='{"n": 1}',
        headers={"X-Given": "yes", "Content-Type": "application/json"},
    )
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json() == {
        "method": "POST",
        "path": "/hook",
        "query": "?id=1&type=event",
        "body": '{"n": 1}',
        "header": "yes",
        "session": stored.id,
    }


def test_a_run_of_the_stored_code_is_no_request(stored):
    assert stored.answer("POST", "/run", {})["stdout"] == "not a request\n"


def test_the_code_decides_status_headers_and_type(client, make_session):
    session = make_session()
    answer = {"status": 418, "headers": {"X-Custom": "v"}, "data": {"a": 1}}
    session.answer("PUT", "/code", {"code": f"print({json.dumps(json.dumps(answer))})"})
    got = client.send("GET", at(session, "/"))
    assert (got.status_code, got.headers["X-Custom"]) == (418, "v")
    assert got.json()["data"] == {"a": 1}


def test_what_is_no_json_is_plain_text_and_500_where_the_code_failed(client, make_session):
    session = make_session()
    for code, status in (("print('plain')", 200), ("print('plain'); exit(3)", 500)):
        session.answer("PUT", "/code", {"code": code})
        got = client.send("GET", at(session, "/"))
        assert (got.status_code, got.text) == (status, "plain\n")
        assert got.headers["Content-Type"].startswith("text/plain")


def test_the_data_goes_on_from_request_to_request(client, make_session):
    session = make_session(data={"hits": 0})
    code = (
        "import json\ndata = json.load(open('.session_data.json'))\ndata['hits'] += 1\n"
        "with open('.session_data.json', 'w') as f: json.dump(data, f)\n"
        "print(json.dumps({'hits': data['hits']}))"
    )
    session.answer("PUT", "/code", {"code": code})
    assert [client.answer("GET", at(session))["hits"] for _ in range(2)] == [1, 2]


def test_without_a_server_and_without_code_there_is_an_error_that_says_so(client, make_session):
    answer = client.send("GET", at(make_session(), "/"))
    assert 400 <= answer.status_code < 600
    assert "code" in answer.json()["error"]

"""/proxy/{id}/{port}/… where nothing listens: the stored code answers, in ERA's form."""

import asyncio
import json

import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from kernelsvc.sessions.environment import MOST_BYTES
from tests.support.api import Api
from tests.support.files import put
from tests.support.problems import fields_of, problem_of
from tests.support.session_server import SERVE

P = "/proxy/s/8000"

# A handler as ERA's users write it: routes by method and path, and prints JSON.
ROUTES = """
import json
import os

if os.getenv("ERA_REQUEST_MODE") == "proxy":
    method, path = os.getenv("ERA_HTTP_METHOD"), os.getenv("ERA_HTTP_PATH")
    if path == "/webhook" and method == "POST":
        body = os.getenv("ERA_HTTP_BODY")
        answer = {"status": "success", "received": json.loads(body) if body else {},
                  "session_id": os.getenv("ERA_SESSION_ID")}
    elif path == "/status":
        answer = {"status": "online"}
    elif path == "/environment":
        answer = {name: text for name, text in os.environ.items() if name.startswith("ERA_")}
    elif path == "/full":
        answer = {"status": 201, "contentType": "application/vnd.x+json", "data": {"key": [1]},
                  "headers": {"X-Custom": "value", "X-Number": 5, "X-Split": "a\\r\\nSet-Cookie: b",
                              "Transfer-Encoding": "chunked", "Content-Length": "9",
                              "Set-Cookie": "c=d; Path=/", "Access-Control-Allow-Origin": "*"}}
    else:
        answer = {"error": "Not found", "path": path}
    print(json.dumps(answer))
else:
    print("Not a proxied request")
"""


@pytest.fixture(autouse=True)
def nothing_goes_wrong(caplog):
    """What a server or a client does is no error of the service's."""
    yield
    errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert not [each for each in errors if each.name != "tornado.access"]


async def store(api, code):
    answer = await api.send("PUT", "/api/sessions/s/code", {"code": code})
    assert answer.status == 200, answer


async def test_stored_code_answers_by_routes_and_is_told_everything(api, server):
    await api.create(persistent=False, env={"OWN": "x"})
    problem_of(await api.http.get(P + "/status"), 502, "no_listener")
    await store(api, ROUTES)
    http = api.http

    answer = await http.get(P + "/status")
    # A `status` that is no number is the code's own; the body is all of what it printed.
    assert (answer.status_code, answer.json()) == (200, {"status": "online"})
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Security-Policy"].startswith("sandbox ")
    assert (await http.get(P)).json() == {"error": "Not found", "path": "/"}
    hook = await http.post(P + "/webhook", json={"event": "te\u00dft"})
    assert hook.json() == {
        "status": "success",
        "received": {"event": "te\u00dft"},
        "session_id": "s",
    }

    full = await http.get(P + "/full")
    assert (full.status_code, full.json()["data"], full.json()["status"]) == (
        201,
        {"key": [1]},
        201,
    )
    assert full.headers["Content-Type"] == "application/vnd.x+json"
    assert (full.headers["X-Custom"], full.headers["X-Number"]) == ("value", "5")
    assert full.headers["Access-Control-Allow-Origin"] == "*"
    assert full.headers["Content-Length"] == str(len(full.content))
    assert "X-Split" not in full.headers
    assert full.headers["Set-Cookie"].startswith("ks-")
    head = await http.head(P + "/full")
    assert (head.status_code, head.content) == (201, b"")

    headers = {"X-Test": "1", "Cookie": "jupyter=secret"}
    told = (await http.put(P + "/environment?a=b%20&c", content="body", headers=headers)).json()
    assert told["ERA_HTTP_METHOD"] == "PUT"
    assert told["ERA_HTTP_PATH"] == "/environment"
    assert told["ERA_HTTP_QUERY"] == "?a=b%20&c"
    assert told["ERA_HTTP_BODY"] == "body"
    assert told["ERA_SESSION_ID"] == "s"
    assert told["ERA_PROXY_URL"] == f"{server.url}/proxy/s"
    sent = json.loads(told["ERA_HTTP_HEADERS"])
    assert (sent["x-test"], sent["content-length"], sent["host"]) == ("1", "4", "localhost:8000")
    assert sent["x-forwarded-prefix"] == P
    assert "cookie" not in sent
    empty = (await http.get(P + "/environment")).json()
    assert (empty["ERA_HTTP_QUERY"], empty["ERA_HTTP_BODY"]) == ("", "")

    # Of a run that nobody asked for by the proxy, none of it is left.
    run = await api.send("POST", "/api/sessions/s/run", {})
    assert run.json["stdout"] == "Not a proxied request\n"


async def test_a_request_cannot_be_made_up_by_a_runs_environment(api):
    await api.create(persistent=False)
    body = {"code": "1", "env": {"ERA_HTTP_BODY": "x"}}
    answer = await api.http.post("/api/sessions/s/run", json=body)
    assert fields_of(problem_of(answer, 400, "invalid_request")) == ["env"]


async def test_what_is_no_json_is_text_and_a_failed_run_is_an_error(api):
    await api.create()
    text, as_json = "text/plain; charset=utf-8", "application/json"
    for code, status, kind, body in (
        ("print('plain')", 200, text, "plain\n"),
        ("print('plain'); 1 / 0", 500, text, "plain\n"),
        ("import sys; sys.exit(3)", 500, text, ""),
        ("print('null')", 200, text, "null\n"),
        ("print('NaN')", 200, text, "NaN\n"),
        ("print('[' * 100000)", 200, text, "[" * 100000 + "\n"),
        ("print(' [1, 2] ')", 200, as_json, "[1, 2]"),
        ("print('\"text\"')", 200, as_json, '"text"'),
        ("print('{\"status\": 404}'); 1 / 0", 404, as_json, '{"status": 404}'),
        ('print(\'{"status": "503"}\')', 503, as_json, '{"status": "503"}'),
        ("print('{\"status\": 99}')", 200, as_json, '{"status": 99}'),
        ("print('{\"status\": true}')", 200, as_json, '{"status": true}'),
        (
            'print(\'{"contentType": "a\\\\nb"}\')',
            200,
            as_json,
            '{"contentType": "a\\nb"}',
        ),
        ("print('{\"headers\": 5}')", 200, as_json, '{"headers": 5}'),
    ):
        await store(api, code)
        answer = await api.http.get(P)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, kind), code
        assert answer.text == body
    await store(api, "print('{\"status\": 204}')")
    answer = await api.http.get(P)
    assert (answer.status_code, answer.content) == (204, b"")


async def test_code_that_takes_too_long_is_a_gateway_timeout(api):
    await api.create(default_timeout=0.2, on_timeout="interrupt")
    await store(api, "print('{}', flush=True)\nwhile True: pass")
    problem_of(await api.http.get(P), 504, "gateway_timeout")


async def test_a_request_that_the_environment_cannot_hold_is_refused_and_runs_nothing(api):
    await api.create()
    await store(api, "import os, subprocess\n"
                     "print(subprocess.run('printenv ERA_HTTP_BODY | wc -c', shell=True,"
                     " capture_output=True, text=True).stdout)")  # fmt: skip
    longest = await api.http.post(P, content="\u00e4" * (MOST_BYTES // 2))
    assert longest.json() == MOST_BYTES + 1

    async def pieces():
        for _ in range(100):
            yield bytes(10_000)

    for body in (b"x" * (MOST_BYTES + 1), bytes(3 << 20), pieces()):
        problem_of(await api.http.post(P, content=body), 413, "request_too_large")
    answer = await api.http.post(P, content=b"a\0b")
    assert fields_of(problem_of(answer, 400, "invalid_request")) == ["body"]
    assert (await api.session())["run_count"] == 1


async def test_a_sleeping_session_is_woken_and_a_listener_goes_before_the_code(api):
    await api.create()
    await store(api, "print('{\"stored\": true}')")
    assert (await api.run(SERVE))["stdout"] == "8000\n"
    assert (await api.http.get(P + "/chunks")).text == "four and 6!"
    assert (await api.http.get("/proxy/s/8001/chunks")).json() == {"stored": True}
    await api.send("POST", "/api/sessions/s/sleep")
    assert (await api.http.get(P + "/chunks")).json() == {"stored": True}
    assert (await api.session())["state"] == "idle"


async def test_requests_wait_in_the_sessions_bounded_queue(make_settings):
    settings = make_settings(max_queued_runs=1)
    async with serving(settings) as server, AsyncClient(base_url=server.url, timeout=30) as http:
        api = Api(http)
        await api.create()
        await store(api, "import os, time\nwhile not os.path.exists('go'): time.sleep(.01)")
        asked = [asyncio.ensure_future(http.get(P)) for _ in range(3)]
        done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        problem_of(done.pop().result(), 429, "queue_full")
        await put(api, "go", b"")
        assert [(await each).status_code for each in waiting] == [200, 200]


@pytest.mark.parametrize("body", [None, b"x" * 100_000])
async def test_a_session_that_is_not_public_runs_no_code_for_anybody(api, body):
    await api.create(persistent=False, allowPublicAccess=False)
    await store(api, "print(1)")
    answer = await api.http.post(P, content=body)
    problem_of(answer, 403, "public_access_disabled")
    assert (await api.session())["run_count"] == 0

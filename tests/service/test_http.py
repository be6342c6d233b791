"""What holds for every answer: ids, headers, encodings, connections; and the probes."""

import asyncio
import json

import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.problems import everything, problem_of, raw


async def read_answer(reader):
    """One HTTP answer off the wire: status line, headers, body."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
    status, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 5)
    return status, headers, body


# ---- ids and headers


async def test_every_refusal_has_an_id_of_its_own(api):
    answers = [await api.http.get("/nothing") for _ in range(20)]
    ids = {problem_of(answer, 404, "not_found")["request_id"] for answer in answers}
    assert len(ids) == 20


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/live", 200),
        ("GET", "/api/sessions", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/health/live", 405),
        ("POST", "/api/sessions", 400),
    ],
)
async def test_every_answer_is_json_that_nobody_caches_or_sniffs(api, method, path, status):
    answer = await api.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] == "kernelsvc"
    assert int(answer.headers["Content-Length"]) == len(answer.content)


async def test_a_created_session_is_at_its_location(api):
    body = {"language": "python", "session_id": "user:1.x", "persistent": False}
    answer = await api.send("POST", "/api/sessions", body)
    assert answer.status == 201
    assert answer.headers["Location"] == "/api/sessions/user:1.x"
    assert (await api.send("GET", answer.headers["Location"])).json == answer.json


async def test_text_travels_as_utf8_both_ways(api):
    text = "Grüße, 世界 💥"
    body = json.dumps({"language": "python", "persistent": False, "metadata": {text: text}})
    for content in (body, json.dumps(json.loads(body), ensure_ascii=False).encode()):
        answer = await raw(api, "POST", "/api/sessions", content)
        assert answer.status_code == 201
        assert text.encode() in answer.content
        assert answer.json()["metadata"] == {text: text}


async def test_what_code_says_in_any_script_comes_back(api):
    await api.create()
    run = await api.run("print('Grüße, 世界 💥')\n'😀'")
    assert run["stdout"] == "Grüße, 世界 💥\n"
    assert run["text"] == "'😀'"


ODD_DISPLAYS = ["float('nan')", "float('-inf')", "10**400", "'\\ud800'", "{'\\ud800': 1}", "{1: 2}",
                "[" * 80 + "]" * 80, "json.loads('[' * 300 + ']' * 300)"]  # fmt: skip


async def test_whatever_json_the_code_displays_the_answer_is_strict_json(api):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    await api.create()
    await api.run("import json; from IPython.display import display")
    for value in ODD_DISPLAYS:
        code = f"display({{'application/json': {value}, 'text/plain': 'x'}}, raw=True)\nprint('on')"
        answer = await raw(api, "POST", "/api/sessions/s/run", json.dumps({"code": code}))
        assert answer.status_code == 200, (value, answer.text)
        run = json.loads(answer.content, parse_constant=refuse)
        assert run["stdout"] == "on\n", value
        found = await api.send("GET", f"/api/sessions/s/runs/{run['run_id']}")
        assert found.status == 200, value


async def test_data_that_the_code_nests_deeply_is_taken_or_left_but_never_breaks(api):
    await api.create(data={"before": 1})
    for depth in (100, 200, 300, 900):
        before = (await api.session())["data"]
        run = await api.run(
            f"content = '{{\"a\": ' + '[' * {depth} + ']' * {depth} + '}}'\n"
            "_ = open('.session_data.json', 'w').write(content)"
        )
        if run["data_detail"] is None:
            assert run["data"] == {"a": json.loads("[" * depth + "]" * depth)}
        else:
            assert depth > 100
            assert run["data"] == before
        assert (await api.session())["data"] == run["data"]
        assert (await everything(api))[0]["count"] == 1
    assert (await api.run("print('on')"))["stdout"] == "on\n"


# ---- later, please


async def test_a_full_queue_is_429_with_retry_after(make_settings):
    async with (
        serving(make_settings(max_queued_runs=1)) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        api = Api(http)
        await api.create()
        wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"
        body = json.dumps({"code": wait})
        # One executes, one waits; for the third there is no room.
        runs = [
            asyncio.create_task(raw(api, "POST", "/api/sessions/s/run", body)) for _ in range(3)
        ]
        done, waiting = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        answer = done.pop().result()
        problem = problem_of(answer, 429, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "1 run" in problem["error"]
        (make_settings().data_dir / "workspaces" / "s" / "go").touch()
        answers = await asyncio.gather(*waiting)
        assert [answer.json()["exit_code"] for answer in answers] == [0, 0]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/sessions", '{"language": "python"}'),
        ("POST", "/api/sessions/s/run", '{"code": "1"}'),
        ("POST", "/api/sessions/s/wake", ""),
        ("PATCH", "/api/sessions/s", "{}"),
        ("GET", "/health/ready", ""),
    ],
)
async def test_a_service_that_shuts_down_says_503_with_retry_after(api, server, method, path, body):
    await api.create(persistent=False)
    server.service.refuse_new()
    before = await everything(api)
    answer = await raw(api, method, path, body)
    problem_of(answer, 503, "shutting_down")
    assert int(answer.headers["Retry-After"]) >= 1
    assert await everything(api) == before


async def test_a_kernel_that_does_not_start_is_503_and_the_session_says_why(make_settings):
    async with (
        serving(make_settings(kernel_start_timeout=0.001)) as server,
        AsyncClient(base_url=server.url, timeout=60) as http,
    ):
        api = Api(http)
        await api.create()
        answer = await raw(api, "POST", "/api/sessions/s/run", '{"code": "1"}')
        problem_of(answer, 503, "kernel_start_failed")
        assert int(answer.headers["Retry-After"]) >= 1
        session = await api.session()
        assert session["state"] == "failed"
        assert "not ready" in session["state_detail"]
        assert session["run_count"] == 0


# ---- probes


async def test_a_service_at_work_is_live_and_ready(api):
    for path in ("/health/live", "/health/ready"):
        answer = await api.send("GET", path)
        assert (answer.status, answer.json) == (200, {"status": "ok"})


async def test_a_service_that_shuts_down_is_live_but_not_ready(api, server):
    server.service.refuse_new()
    assert (await api.send("GET", "/health/live")).status == 200
    assert (await api.send("GET", "/health/ready")).status == 503


async def test_a_service_without_room_for_files_is_not_ready_and_says_so(make_settings):
    async with (
        serving(make_settings(max_data_bytes=1 << 60)) as server,
        AsyncClient(base_url=server.url) as http,
    ):
        answer = await http.get("/health/ready")
        problem = problem_of(answer, 503, problem_code(answer))
        assert "space" in problem["error"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await http.get("/health/live")).status_code == 200


def problem_code(answer):
    code = answer.json()["code"]
    assert code != "internal_error"
    return code


async def test_a_service_whose_data_directory_is_gone_is_not_ready(make_settings):
    settings = make_settings()
    async with (
        serving(settings) as server,
        AsyncClient(base_url=server.url) as http,
    ):
        aside = settings.data_dir.with_name("aside")
        settings.data_dir.rename(aside)
        try:
            answer = await http.get("/health/ready")
        finally:
            aside.rename(settings.data_dir)
        problem_of(answer, 503, problem_code(answer))
        assert (await http.get("/health/ready")).status_code == 200


# ---- connections


async def test_a_connection_serves_many_requests_refused_ones_among_them(api, server):
    async with connection(server.url) as (reader, writer):
        requests = [
            (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
            (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            (b"PUT /api/sessions HTTP/1.1\r\nHost: localhost\r\n\r\n", "405"),
            (b"GET /proxy/s/80/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            (
                b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n{",
                "400",
            ),
            (
                b"POST /api/sessions/s/run HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 2\r\n\r\n[]",
                "400",
            ),
            (b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
        ]
        for request, expected in requests:
            writer.write(request)
            status, headers, _ = await read_answer(reader)
            assert status.split()[1] == expected
            assert headers.get("connection", "keep-alive").lower() == "keep-alive"


@pytest.mark.parametrize(
    ("line", "expected"), [(b"POST /nothing", "404"), (b"PUT /api/sessions", "405")]
)
async def test_a_refusal_before_the_body_keeps_the_connection_or_says_close(
    api, server, line, expected
):
    async with connection(server.url) as (reader, writer):
        writer.write(line + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        status, headers, _ = await read_answer(reader)
        assert status.split()[1] == expected
        if headers.get("connection", "").lower() != "close":
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await read_answer(reader))[0].split()[1] == "200"


@pytest.mark.parametrize(("path", "status"), [("/api/sessions", 405), ("/nothing", 404)])
async def test_head_is_refused_with_headers_only(api, path, status):
    answer = await api.http.head(path)
    assert answer.status_code == status
    assert answer.content == b""
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    if status == 405:
        assert "GET" in answer.headers["Allow"]


async def test_an_old_client_that_closes_is_answered(api, server):
    async with connection(server.url) as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.0\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    "nonsense",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
     b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n",
     b"GET /health/live HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"],
)  # fmt: skip
async def test_who_speaks_no_http_is_hung_up_on_and_the_service_lives_on(api, server, nonsense):
    async with connection(server.url) as (reader, writer):
        writer.write(nonsense)
        writer.write_eof()
        try:
            answer = await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert (await api.send("GET", "/health/live")).status == 200


async def test_a_client_that_goes_away_within_its_body_changes_nothing(api, server):
    before = await everything(api)
    async with connection(server.url) as (reader, writer):
        writer.write(
            b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 22\r\n\r\n"
        )
        writer.write(b'{"language": "python"')
        await writer.drain()
        writer.close()
        assert await asyncio.wait_for(reader.read(), 5) == b""
    assert await everything(api) == before


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"POST /api/se",
        b"POST /api/sessions HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 50\r\n\r\n",
        b"POST /api/sessions HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 50\r\n\r\n{",
        b"POST /api/sessions HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{",
    ],
)
async def test_a_client_that_stalls_is_hung_up_on(make_settings, said):
    async with (
        serving(make_settings(header_timeout=0.2)) as server,
        connection(server.url) as (reader, writer),
    ):
        writer.write(said)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_run_may_take_longer_than_the_patience_with_stalling_clients(make_settings):
    async with (
        serving(make_settings(header_timeout=0.2)) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        api = Api(http)
        await api.create()
        assert (await api.run("import time; time.sleep(1); print('done')"))["stdout"] == "done\n"

"""/proxy/{id}/{port}/…: requests to servers that the code of sessions runs."""

import asyncio
import os
import re
import shutil
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import pytest
from httpx import AsyncClient, RemoteProtocolError
from tornado.ioloop import IOLoop

from kernelsvc.app import serving
from kernelsvc.proxy.headers import SANDBOX
from kernelsvc.settings import load_settings
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.problems import fields_of, problem_of
from tests.support.session_server import SERVE
from tests.support.waiting import eventually

P = "/proxy/s/8000"


@pytest.fixture(autouse=True)
def nothing_goes_wrong(caplog):
    """What a server or a client does is no error of the service's."""
    yield
    errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert not [each for each in errors if each.name != "tornado.access"]


# One service and one server for the whole file.


@pytest.fixture(scope="module")
def io_loop():
    loop = IOLoop(make_current=False)
    yield loop
    loop.close(all_fds=True)


@pytest.fixture(scope="module")
def server(io_loop, tmp_path_factory):
    runtime = Path(tempfile.mkdtemp(prefix="ks"))
    stack = AsyncExitStack()
    settings = load_settings(
        port=0,
        data_dir=tmp_path_factory.mktemp("data"),
        runtime_dir=runtime,
        pool_max=0,
        proxy_timeout=0.4,
        proxy_idle_timeout=0.8,
        max_proxy_connections=4,
    )
    yield io_loop.run_sync(lambda: stack.enter_async_context(serving(settings)))
    io_loop.run_sync(stack.aclose)
    shutil.rmtree(runtime)


@pytest.fixture(scope="module")
def api(io_loop, server):
    http = AsyncClient(base_url=server.url, timeout=30)
    made = Api(http)

    async def prepare():
        await made.create("s")
        assert (await made.run(SERVE))["stdout"] == "8000\n"

    io_loop.run_sync(prepare)
    yield made
    io_loop.run_sync(http.aclose)


async def head_of(reader):
    """Status line and headers of an answer."""
    return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")


async def ask(api, path, method="GET", **options):
    return await api.http.request(method, P + path, **options)


async def was_left(api):
    """Whether the server has seen that nobody takes or sends any more."""
    return (await ask(api, "/was-left")).text == "True"


# ---- requests


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_request_arrives_as_it_was_sent(api, method):
    body = {} if method in ("GET", "OPTIONS") else {"content": b"\0\xff body"}
    answer = await ask(api, "/echo/%2e/%41%ff?q=%20&q=%3f", method, **body)
    assert answer.status_code == 200
    head, _, sent = answer.content.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == f"{method} /echo/%2e/%41%ff?q=%20&q=%3f HTTP/1.1".encode()
    assert sent == body.get("content", b"")


async def test_a_head_request_has_its_heads_only(api):
    answer = await ask(api, "/echo", "HEAD")
    assert (answer.status_code, answer.headers["X-Method"], answer.content) == (200, "HEAD", b"")


async def test_the_root_needs_no_slash(api, server):
    for path in (P, P + "/"):
        answer = await api.http.get(path + "?x")
        # The server knows no such path, and breaks off; what matters is that it was asked.
        problem_of(answer, 502, "bad_gateway")


async def test_the_server_is_told_who_asked_for_what_and_nothing_of_one_hop(api, server):
    address = server.url.removeprefix("http://")
    text = (
        f"GET {P}/echo HTTP/1.1\r\nHost: {address}\r\nConnection: X-Listed, Host\r\n"
        "X-Listed: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: Basic eA==\r\n"
        "Upgrade: h2c\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\n"
        "X-Forwarded-Host: evil.example\r\nX-Forwarded-Prefix: /evil\r\nX-Kept: caf\xe9\r\n\r\n"
    )
    async with connection(server.url) as (reader, writer):
        writer.write(text.encode("latin-1"))
        assert "200 OK" in await head_of(reader)
        lines = (await head_of(reader)).split("\r\n")
    assert sorted(line for line in lines[1:] if line) == [
        "Connection: close",
        "Host: localhost:8000",
        "X-Forwarded-For: 1.2.3.4, 127.0.0.1",
        f"X-Forwarded-Host: {address}",
        f"X-Forwarded-Prefix: {P}",
        "X-Forwarded-Proto: http",
        "X-Kept: caf\xe9",
    ]


async def test_a_client_that_waits_for_a_word_gets_the_servers_or_goes_on_soon(api, server):
    head = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n{}Connection: close\r\n\r\n"
    expect = "Expect: 100-continue\r\n"
    async with connection(server.url) as (reader, writer):
        writer.write(head.format(P + "/echo", expect).encode())
        assert (await asyncio.wait_for(reader.readline(), 0.8)).startswith(b"HTTP/1.1 100")
        writer.write(b"body")
        assert (await asyncio.wait_for(reader.read(), 10)).endswith(b"\r\n\r\nbody")
    async with connection(server.url) as (reader, writer):
        writer.write(head.format(P + "/unwilling", expect).encode())
        answer = await asyncio.wait_for(reader.read(), 0.8)
        assert answer.startswith(b"HTTP/1.1 417")
        assert answer.endswith(b"\r\n\r\nno")
    async with connection(server.url) as (reader, writer):
        writer.write(head.format(P + "/count", expect).encode())
        assert (await asyncio.wait_for(reader.readline(), 3)).startswith(b"HTTP/1.1 100")
        writer.write(b"body")
        assert b"\r\n\r\n4 " in await asyncio.wait_for(reader.read(), 10)


async def test_an_answer_before_the_end_of_the_body_is_answered(api):
    """The server hangs up without having read the body, which is more than sockets hold."""

    async def body():
        for _ in range(64):
            yield bytes(1 << 18)

    answer = await ask(api, "/early", "POST", content=body())
    assert (answer.status_code, answer.text) == (413, "late")


# ---- answers


async def test_answers_come_as_the_server_gave_them(api):
    assert (await ask(api, "/chunks")).text == "four and 6!"
    until_close = await ask(api, "/until-close")
    assert until_close.text == "until close"
    assert "X-Listed" not in until_close.headers
    assert (await ask(api, "/both")).text == "four"
    for status in (204, 304):
        answer = await ask(api, f"/status/{status}")
        assert (answer.status_code, answer.headers["ETag"], answer.content) == (status, '"e"', b"")
    for status in (201, 302, 404, 500):
        answer = await ask(api, f"/status/{status}")
        assert (answer.status_code, answer.text) == (status, "body")
        assert answer.headers["Location"] == "/elsewhere?a=b"


async def test_what_speaks_for_a_hop_or_the_whole_origin_is_taken_out(api):
    answer = await ask(api, "/headers")
    assert sorted(answer.headers.raw) == [
        (b"Content-Length", b"0"),
        (b"Content-Security-Policy", b"default-src 'self'"),
        (b"Content-Security-Policy", SANDBOX.encode()),
        (b"Server", b"inside"),
        (b"X-Kept", b"caf\xe9"),
        (b"X-Twice", b"1"),
        (b"X-Twice", b"2"),
    ]


async def test_to_a_client_of_http_1_0_the_end_of_the_connection_is_that_of_the_answer(api, server):
    text = f"GET {P}/chunks HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
    async with connection(server.url) as (reader, writer):
        writer.write(text.encode())
        answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.endswith(b"\r\n\r\nfour and 6!")
    assert b"chunked" not in answer


async def test_each_piece_of_an_answer_is_passed_on_at_once(api):
    async with api.http.stream("GET", P + "/events") as events:
        pieces = events.aiter_text()
        assert await asyncio.wait_for(anext(pieces), 5) == "data: 1\n\n"
        assert (await ask(api, "/go")).text == "went"
        assert await asyncio.wait_for(anext(pieces), 5) == "data: 2\n\n"


async def test_bodies_of_any_size_go_both_ways_in_constant_memory(api):
    size = 200 << 20
    piece = bytes(1 << 20)

    async def body():
        for _ in range(size // len(piece)):
            yield piece

    service = psutil.Process()
    before = service.memory_info().rss
    for headers in ({}, {"Content-Length": str(size)}):
        answer = await ask(api, "/count", "POST", content=body(), headers=headers)
        received, most_kib = map(int, answer.text.split())
        assert received == size
        assert most_kib < 150 * 1024
    got = most = 0
    async with api.http.stream("GET", f"{P}/source/{size}") as answer:
        async for data in answer.aiter_raw():
            got += len(data)
            most = max(most, service.memory_info().rss)
    assert got == size
    assert most - before < 40 << 20


# ---- servers that do harm


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/nonsense", "/lengths", "/split", "/control", "/unasked-101", "/informs",
     "/endless-head"],
)  # fmt: skip
async def test_a_server_that_makes_no_sense_is_a_bad_gateway(api, path):
    problem_of(await ask(api, path), 502, "bad_gateway")


@pytest.mark.parametrize("path", ["/cut", "/cut-chunks"])
async def test_an_answer_that_breaks_off_is_seen_to(api, path):
    with pytest.raises(RemoteProtocolError):
        await ask(api, path)


async def test_a_server_that_says_nothing_is_left_after_a_while(api):
    problem_of(await ask(api, "/silent"), 504, "gateway_timeout")
    assert await was_left(api)


async def test_an_endless_answer_ends_with_its_client_and_keeps_nobody_waiting(api):
    async with api.http.stream("GET", P + "/endless") as endless:
        pieces = endless.aiter_raw()
        await anext(pieces)
        began = time.monotonic()
        assert (await ask(api, "/chunks")).status_code == 200
        assert (await api.session())["state"] == "idle"
        assert time.monotonic() - began < 2
    assert await was_left(api)


async def test_a_client_that_takes_nothing_stops_its_server_and_both_are_freed(api, server):
    async with connection(server.url, limit=1024) as (reader, writer):
        writer.write(f"GET {P}/source/{1 << 30} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readline()
        visits = server.service._live["s"].visits
        assert visits.are_open
    assert await was_left(api)
    await eventually(lambda: not visits.are_open)


async def test_no_more_than_so_many_are_open_at_once(api):
    async with AsyncExitStack() as stack:
        for _ in range(4):
            opened = api.http.stream("GET", f"{P}/source/{1 << 30}")
            await stack.enter_async_context(opened)
        refused = problem_of(await ask(api, "/echo"), 429, "too_many_connections")
        assert "4 requests" in refused["error"]
    await eventually(lambda: is_answered(api))


async def is_answered(api):
    return (await ask(api, "/echo")).status_code == 200


# ---- WebSockets


UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n"
    "Upgrade: WebSocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@asynccontextmanager
async def websocket(server):
    async with connection(server.url) as (reader, writer):
        writer.write(UPGRADE.format(P + "/raw").encode() + b"early ")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"Sec-WebSocket-Accept: yes\r\n" in head
        assert await asyncio.wait_for(reader.readexactly(12), 10) == b"hello early "
        yield reader, writer


async def test_a_websocket_is_bytes_both_ways_until_either_side_ends(api, server):
    async with websocket(server) as (reader, writer):
        piece = os.urandom(1 << 20)
        writer.write(piece)
        assert await asyncio.wait_for(reader.readexactly(len(piece)), 10) == piece
        writer.write(b"bye")
        assert await asyncio.wait_for(reader.read(), 10) == b""
    async with websocket(server):
        pass
    assert await was_left(api)


async def test_a_websocket_on_which_nothing_moves_is_closed(api, server):
    async with websocket(server) as (reader, writer):
        for _ in range(3):
            # Together this takes longer than nothing may move.
            await asyncio.sleep(0.4)
            writer.write(b"x")
            assert await asyncio.wait_for(reader.readexactly(1), 10) == b"x"
        assert await asyncio.wait_for(reader.read(), 5) == b""
    assert await was_left(api)


async def test_a_server_that_does_not_switch_has_its_answer_passed_on(api, server):
    async with connection(server.url) as (reader, writer):
        writer.write(UPGRADE.format(P + "/chunks").encode())
        assert (await head_of(reader)).startswith("HTTP/1.1 200")
        body = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
        assert body == b"b\r\nfour and 6!\r\n0\r\n\r\n"
        # And the connection can be used again.
        writer.write(UPGRADE.format(P + "/chunks").encode())
        assert (await head_of(reader)).startswith("HTTP/1.1 200")


async def test_a_client_that_leaves_before_the_server_switches_leaves_nothing(api, server):
    visits = server.service._live["s"].visits
    async with connection(server.url) as (_, writer):
        writer.write(UPGRADE.format(P + "/silent").encode())
        await eventually(lambda: visits.are_open)
    assert await was_left(api)
    await eventually(lambda: not visits.are_open)


async def test_only_a_get_without_a_body_asks_for_a_websocket(api):
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
    for method in ("POST", "GET"):
        answer = await ask(api, "/echo", method, content=b"body", headers=headers)
        assert answer.text.endswith("\r\n\r\nbody")
        assert "pgrade" not in answer.text


# ---- who may, and what stays apart


async def test_what_is_no_port_or_session_is_refused(api):
    for port in ("0", "65536", "99999999999999999999", "x", "-1", "8000x", "%20"):
        problem = problem_of(await api.http.get(f"/proxy/s/{port}/x"), 400, "invalid_request")
        assert fields_of(problem) == ["port"]
        answer = await api.http.get(f"/api/sessions/s/host?port={port}")
        assert fields_of(problem_of(answer, 400, "invalid_request")) == ["port"]
    problem_of(await api.http.get("/api/sessions/s/host"), 400, "invalid_request")
    for method in ("GET", "POST"):
        answer = await api.http.request(method, "/proxy/nobody/8000/x")
        problem_of(answer, 404, "session_not_found")
    problem_of(await api.http.get("/api/sessions/nobody/host?port=1"), 404, "session_not_found")
    problem_of(await api.http.request("TRACE", P), 405, "method_not_allowed")


async def test_host_tells_where_a_port_is_reached(api, server):
    answer = await api.send("GET", "/api/sessions/s/host?port=8000")
    url = f"{server.url}/proxy/s/8000"
    assert answer.json == {"url": url, "base_url": url, "session_id": "s", "port": 8000}


async def test_a_port_on_which_nothing_listens_and_another_sessions_port_are_not_reached(
    api, server
):
    for port in (8001, server.url.rpartition(":")[2]):
        for body in ({}, {"content": bytes(1 << 20)}):
            answer = await api.http.post(f"/proxy/s/{port}/x", **body)
            problem_of(answer, 502, "no_listener")
    await api.create("other")
    await api.run("1", "other")
    problem_of(await api.http.get("/proxy/other/8000/chunks"), 502, "no_listener")
    await api.send("DELETE", "/api/sessions/other")


async def test_a_session_that_is_not_public_takes_no_requests_and_ends_those_that_are_open(
    api, server
):
    async with websocket(server) as (reader, _):
        await api.send("PATCH", "/api/sessions/s", {"allowPublicAccess": False})
        assert await asyncio.wait_for(reader.read(), 5) == b""
        problem_of(await ask(api, "/chunks"), 403, "public_access_disabled")
    await api.send("PATCH", "/api/sessions/s", {"allowPublicAccess": True})
    assert (await ask(api, "/chunks")).status_code == 200


async def test_cookies_are_a_servers_own(api):
    answer = await ask(api, "/cookies")
    plain, scoped = answer.headers.get_list("Set-Cookie")
    name = plain.removesuffix("plain=1")
    assert re.fullmatch(r"ks-[0-9a-f]{12}-", name)
    assert scoped == f"{name}a=b=c; Path={P}/in; HttpOnly"
    sent = f"jupyter=secret; {name}a=b=c; {name}plain=1; ks-000000000000-a=secret"
    echoed = (await ask(api, "/echo", headers={"Cookie": sent})).text
    assert "\r\nCookie: a=b=c; plain=1\r\n" in echoed
    assert "secret" not in echoed
    assert "Cookie" not in (await ask(api, "/echo", headers={"Cookie": "jupyter=secret"})).text


async def test_pages_of_sessions_may_not_use_the_api_but_may_ask_their_server(api, server):
    for headers in (
        {"Origin": "null"},
        {"Referer": f"{server.url}{P}/page"},
        {"Referer": f"{server.url.upper()}{P}/page?x"},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Site": "cross-site"},
    ):
        for method, path in (("GET", "/api/sessions"), ("POST", "/api/sessions"), ("GET", "/docs")):
            answer = await api.http.request(method, path, headers=headers)
            problem_of(answer, 403, "forbidden")
        assert (await ask(api, "/chunks", headers=headers)).status_code == 200
    for headers in (
        {"Origin": server.url},
        {"Referer": f"{server.url}/docs"},
        {"Referer": "https://example.com/proxy/"},
        {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "cross-site"},
    ):
        assert (await api.http.get("/api/sessions", headers=headers)).status_code == 200
    problem_of(
        await ask(api, "/chunks", headers={"Host": "evil.example"}), 421, "misdirected_request"
    )


async def test_the_codes_processes_hold_nothing_of_the_hosts(api):
    """The socket that the host answers on would reach nothing else, and is not there anyway.

    The kernel has one of its kind, over which it tells of its snapshots, and is not believed.
    """
    code = (
        "import os, subprocess, sys\n"
        "look = \"import os, socket\\nfor n in os.listdir('/proc/self/fd'):\\n"
        "    try: s = socket.socket(fileno=os.dup(int(n)))\\n    except OSError: continue\\n"
        '    print(s.type == socket.SOCK_SEQPACKET)\\n"\n'
        "exec(look)\n"
        "print('program', subprocess.run([sys.executable, '-c', look], close_fds=False,"
        " capture_output=True, text=True).stdout)\n"
        "host = os.getppid()\n"
        "try: print(os.listdir(f'/proc/{host}/fd'))\n"
        "except PermissionError: print('hidden')\n"
    )
    run = await api.run(code)
    kernel, _, program = run["stdout"].partition("program")
    assert kernel.count("True") == 1, run["stdout"]
    assert "False" in kernel
    assert "True" not in program
    assert run["stdout"].endswith("hidden\n")

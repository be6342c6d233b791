"""Requests to ports of sessions: what they may know, what they keep awake, what ends them."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from kernelsvc.keys.secret import new_key
from kernelsvc.sessions import ports
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.keys import bearer, clients
from tests.support.problems import problem_of
from tests.support.session_server import SERVE
from tests.support.waiting import eventually

P = "/proxy/s/8000"
KEY = "a-key-from-the-configuration"
WEBSOCKET = (
    f"GET {P}/raw HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)


@pytest.fixture(autouse=True)
def nothing_goes_wrong(caplog):
    """What a server or a client does is no error of the service's."""
    yield
    errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert not [each for each in errors if each.name != "tornado.access"]


@asynccontextmanager
async def served(make_settings, **changes):
    """A service, and a client of it with a session in which the server runs."""
    async with (
        serving(make_settings(**changes)) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        api = Api(http)
        await api.create()
        assert (await api.run(SERVE))["stdout"] == "8000\n"
        yield server, api


async def test_nobody_needs_a_key_and_no_servers_code_learns_one(make_settings):
    settings = make_settings(api_key=KEY, max_body_bytes=20_000)
    async with serving(settings) as server, clients(server, KEY, None) as (api, nobody):
        await api.create()
        await api.run(SERVE)
        problem_of(await nobody.http.get("/api/sessions/s/host?port=8000"), 401, "unauthorized")
        echo = await nobody.http.post(P + "/echo", content=bytes(50_000))
        assert (echo.status_code, echo.content[-50_000:]) == (200, bytes(50_000))

        # One that is valid, one that was or may be, and both together.
        another = str(new_key())
        for values in ([KEY], [another], [KEY, another]):
            headers = [("Authorization", f"bearer  {value}") for value in values]
            told = (await nobody.http.get(P + "/echo", headers=headers)).text
            assert "uthorization" not in told
            assert not any(value in told for value in values)
        # What is none of ours is the server's own.
        for own in ("Bearer of-the-server", "Basic dTpw"):
            told = (await nobody.http.get(P + "/echo", headers={"Authorization": own})).text
            assert f"Authorization: {own}\r\n" in told

        code = "import os; print(os.environ['ERA_HTTP_HEADERS'])"
        await api.send("PUT", "/api/sessions/s/code", {"code": code})
        told = await nobody.http.get("/proxy/s/8001/", headers=bearer(KEY))
        assert told.json()["host"] == "localhost:8001"
        assert "authorization" not in told.json()


async def test_an_open_request_keeps_its_session_awake_and_no_longer(make_settings):
    async with served(make_settings, sleep_after=0.3) as (server, api):
        visits = server.service._live["s"].visits
        async with connection(server.url) as (reader, writer):
            writer.write(WEBSOCKET.encode())
            await reader.readuntil(b"hello ")
            problem_of(await api.http.post("/api/sessions/s/sleep"), 409, "session_busy")
            async with api.http.stream("GET", P + "/events") as events:
                pieces = events.aiter_raw()
                await anext(pieces)
                writer.write(b"bye")
                assert await asyncio.wait_for(reader.read(), 5) == b""
                # Nothing announces that nothing happens: three times as long as it takes to sleep.
                await asyncio.sleep(0.9)
                assert visits.are_open
                assert (await api.session())["state"] == "idle"
                assert (await api.http.get(P + "/chunks")).status_code == 200

        async def is_asleep():
            return (await api.session())["state"] == "sleeping"

        await eventually(is_asleep)
        problem_of(await api.http.get(P + "/chunks"), 502, "no_listener")
        assert await is_asleep()


async def test_open_requests_end_with_their_kernel_and_with_the_service(make_settings):
    async with served(make_settings) as (server, api), connection(server.url) as (reader, writer):
        writer.write(WEBSOCKET.encode())
        await reader.readuntil(b"hello ")
        silent = asyncio.ensure_future(api.http.get(P + "/silent"))
        visits = server.service._live["s"].visits
        await eventually(lambda: visits._open == 2)
        await api.send("POST", "/api/sessions/s/restart")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        problem_of(await silent, 502, "bad_gateway")
        assert not visits.are_open

        await api.run(SERVE)
        async with connection(server.url) as (reader, writer):
            writer.write(WEBSOCKET.encode())
            await reader.readuntil(b"hello ")
            server.service.refuse_new()
            problem_of(await api.http.get(P + "/chunks"), 503, "shutting_down")
            await asyncio.wait_for(server.service.close(), 10)
            assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_session_whose_host_was_stopped_is_given_up_and_harms_nobody(
    make_settings, monkeypatch
):
    monkeypatch.setattr(ports, "_CONNECT_SECONDS", 0.2)
    async with served(make_settings) as (_, api):
        await api.create("other")
        await api.run(SERVE, "other")
        await api.run("import os, signal; os.kill(os.getppid(), signal.SIGSTOP)")
        for _ in range(2):
            problem_of(await api.http.get(P + "/chunks"), 504, "gateway_timeout")
        assert (await api.http.get("/proxy/other/8000/chunks")).status_code == 200
        await api.run("import os, signal; os.kill(os.getppid(), signal.SIGCONT)")
        # The answers that come now are to questions that nobody waits for any more.
        assert (await api.http.get(P + "/chunks")).text == "four and 6!"


async def test_without_a_sandbox_only_what_the_sessions_processes_listen_on_is_reached(
    make_settings,
):
    program = (
        "import subprocess, sys\n"
        "argv = [sys.executable, '-u', '-m', 'http.server', '--bind', '::1', '0']\n"
        "child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline().split('port ')[1].split()[0])"
    )
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        async with served(make_settings, sandbox="off") as (server, api):
            assert (await api.http.get(P + "/chunks")).text == "four and 6!"
            port = (await api.run(program))["stdout"].strip()
            assert (await api.http.get(f"/proxy/s/{port}/")).status_code == 200
            await api.create("other")
            await api.run("1", "other")
            for session_id, unreached in (
                ("s", foreign.getsockname()[1]),
                ("s", server.url.rpartition(":")[2]),
                ("other", 8000),
                ("other", port),
            ):
                answer = await api.http.get(f"/proxy/{session_id}/{unreached}/")
                problem_of(answer, 502, "no_listener")

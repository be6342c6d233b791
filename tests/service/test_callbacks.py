"""Callbacks: signed, retried, kept over a restart, never to where they must not go."""

import asyncio
import json
import re
import sqlite3
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11
import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.problems import fields_of, problem_of
from tests.support.process import ServiceProcess
from tests.support.waiting import eventually

LOOPBACK = "127.0.0.1/32"


@dataclass
class Receiver:
    """What a server was sent; it answers `statuses` in turn, then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, reader, writer):
        connection, body, headers = h11.Connection(h11.SERVER), b"", {}
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        self.got.append((headers, body))
        status = self.statuses.pop(0) if self.statuses else 200
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status)
        writer.close()


@asynccontextmanager
async def receiving(*statuses):
    receiver = Receiver(statuses=list(statuses))
    server = await asyncio.start_server(receiver.take, "127.0.0.1")
    async with server:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/done?a=b"
        yield receiver


@asynccontextmanager
async def service(settings):
    async with (
        serving(settings) as server,
        AsyncClient(base_url=server.url, timeout=60) as http,
    ):
        yield Api(http)


@pytest.fixture
def settings(make_settings):
    return make_settings(callback_networks=(LOOPBACK,), callback_first_pause=0.05)


def verifier():
    """The function that the README shows to those who receive callbacks."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?def is_genuine.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(source, names)
    return names["is_genuine"]


def waiting_deliveries(settings):
    with sqlite3.connect(settings.data_dir / "kernelsvc.db") as connection:
        (count,) = connection.execute("SELECT count(*) FROM deliveries").fetchone()
    connection.close()
    return count


async def test_a_callback_gets_the_finished_run_signed(settings):
    async with receiving() as receiver, service(settings) as api:
        await api.create()
        body = {"code": "print('x')", "background": True, "callback_url": receiver.url}
        begun = (await api.send("POST", "/api/sessions/s/run", body)).json
        await eventually(lambda: receiver.got)
        found = await api.send("GET", f"/api/sessions/s/runs/{begun['run_id']}")
        ((headers, sent),) = receiver.got
        assert json.loads(sent) == found.json
        assert found.json["stdout"] == "x\n"
        secret_file = settings.data_dir / "callback_secret"
        assert secret_file.stat().st_mode & 0o777 == 0o600
        secret = secret_file.read_text()
        is_genuine = verifier()
        assert is_genuine(secret, headers, sent)
        assert not is_genuine(secret, headers, sent + b" ")
        assert not is_genuine("another", headers, sent)
        old = {**headers, "x-kernelsvc-timestamp": "1700000000"}
        assert not is_genuine(secret, old, sent)
        assert headers["x-kernelsvc-delivery"].startswith("dlv_")


async def test_a_callback_that_fails_is_sent_again_with_pauses_until_it_is_taken(settings):
    async with receiving(500, 302, 404) as receiver, service(settings) as api:
        await api.create()
        await api.run("1", callback_url=receiver.url)
        await eventually(lambda: len(receiver.got) == 4)
        # Taken: it comes no more.
        await eventually(lambda: waiting_deliveries(settings) == 0)
        assert len(receiver.got) == 4
        assert len({headers["x-kernelsvc-delivery"] for headers, _ in receiver.got}) == 1
        assert len({body for _, body in receiver.got}) == 1


@pytest.mark.parametrize("addresses", [("127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254")])
async def test_private_and_loopback_addresses_are_refused_unless_configured(api, addresses):
    await api.create()
    for address in addresses:
        body = {"code": "1", "callback_url": f"http://{address}/x"}
        answer = await api.http.post("/api/sessions/s/run", json=body)
        assert fields_of(problem_of(answer, 400, "invalid_request")) == ["callback_url"]
    for url in ("ftp://example.com", "http://", "http://a:b@example.com/", "//example.com", "x"):
        body = {"code": "1", "callback_url": url}
        answer = await api.http.post("/api/sessions/s/run", json=body)
        assert fields_of(problem_of(answer, 400, "invalid_request")) == ["callback_url"]
    assert (await api.session())["run_count"] == 0


async def test_a_name_that_leads_to_loopback_gets_nothing(make_settings, caplog):
    settings = make_settings(callback_first_pause=0.01, callback_attempts=2)
    async with receiving() as receiver, service(settings) as api:
        await api.create()
        await api.run("1", callback_url=receiver.url.replace("127.0.0.1", "localhost"))
        await eventually(lambda: "delivery_given_up" in caplog.text)
        assert receiver.got == []


async def test_a_callback_of_a_run_that_the_service_was_killed_in_comes_once_and_true(
    make_settings, settings
):
    networks = f"{LOOPBACK}"
    async with receiving() as receiver:
        with ServiceProcess(data_dir=settings.data_dir, callback_networks=networks) as killed:
            async with AsyncClient(base_url=killed.url, timeout=30) as http:
                api = Api(http)
                await api.create()
                body = {
                    "code": "import time; time.sleep(60)",
                    "background": True,
                    "callback_url": receiver.url,
                }
                begun = (await api.send("POST", "/api/sessions/s/run", body)).json
                await api.until_running()
                killed.kill()
        assert receiver.got == []
        async with service(settings) as api:
            await eventually(lambda: receiver.got)
            found = await api.send("GET", f"/api/sessions/s/runs/{begun['run_id']}")
            assert found.json["status"] == "interrupted"
            assert found.json["memory"] == "lost"
            assert found.json["exit_code"] is None
        # Once: a service that starts again has nothing left to send.
        async with service(settings) as api:
            assert (await api.run("1"))["exit_code"] == 0
        ((_, sent),) = receiver.got
        assert json.loads(sent) == found.json


async def test_what_was_not_taken_before_a_restart_is_sent_after_it(make_settings, settings):
    slow = make_settings(callback_networks=(LOOPBACK,), callback_first_pause=0.3)
    async with receiving(503) as receiver:
        async with service(slow) as api:
            await api.create()
            run = await api.run("1", callback_url=receiver.url)
            await eventually(lambda: receiver.got)
        assert len(receiver.got) == 1
        async with service(settings):
            await eventually(lambda: len(receiver.got) == 2)
        assert json.loads(receiver.got[1][1])["run_id"] == run["run_id"]
        assert receiver.got[0][1] == receiver.got[1][1]


async def test_the_callback_of_a_queued_run_whose_session_is_deleted_tells_so(settings):
    async with receiving() as receiver, service(settings) as api:
        await api.create()
        first = asyncio.create_task(api.run("import time; time.sleep(60)"))
        await api.until_running()
        body = {"code": "1", "background": True, "callback_url": receiver.url}
        begun = (await api.send("POST", "/api/sessions/s/run", body)).json
        await api.send("DELETE", "/api/sessions/s")
        await first
        await eventually(lambda: receiver.got)
        sent = json.loads(receiver.got[0][1])
        assert (sent["run_id"], sent["status"]) == (begun["run_id"], "failed")
        assert sent["error"]["ename"] == "session_not_found"

"""Runs as server-sent events: as they come, to many, again from any point, past slow readers."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx

from kernelsvc.api import events as api_events
from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.memory import MIB, growing_by_less_than
from tests.support.problems import fields_of, problem_of
from tests.support.process import ServiceProcess
from tests.support.sse import events_of, text_of
from tests.support.waiting import eventually

HELD = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.005)\nos.remove('go')\n"


def let_go(tmp_path, session_id="s"):
    (tmp_path / "data" / "workspaces" / session_id / "go").touch()


@asynccontextmanager
async def streaming(api, code, session_id="s", headers=None, **fields):
    path = f"/api/sessions/{session_id}/stream"
    body = {"code": code, **fields}
    async with api.http.stream("POST", path, json=body, headers=headers or {}) as response:
        yield response


async def stream(api, code, **options):
    """All events of a run."""
    async with streaming(api, code, **options) as response:
        assert response.status_code == 200, await response.aread()
        return [event async for event in events_of(response)]


async def watch(api, run_id, last_seen=None, session_id="s"):
    """All events of a run that somebody began."""
    headers = {"Last-Event-ID": last_seen} if last_seen else {}
    path = f"/api/sessions/{session_id}/runs/{run_id}/events"
    async with api.http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        return [event async for event in events_of(response)]


async def test_a_stream_has_every_kind_of_event_in_order_and_the_result_last(api):
    await api.create()
    events = await stream(
        api,
        "import sys\n"
        "from IPython.display import display\n"
        "sys.stdout.write('out\\n')\n"
        "sys.stderr.write('err\\n')\n"
        "handle = display('shown', display_id='d')\n"
        "handle.update('anew')\n"
        "1 / 0",
    )
    assert [event.name for event in events] == [
        "stdout",
        "stderr",
        "display",
        "update_display",
        "error",
        "done",
    ]
    assert all(event.data["type"] == event.name for event in events)
    assert events[0].data == {"type": "stdout", "content": "out\n"}
    assert events[2].data["data"] == {"text/plain": "'shown'"}
    assert events[4].data["ename"] == "ZeroDivisionError"
    assert events[4].data["error"] == "ZeroDivisionError: division by zero"
    done = events[-1].data
    assert (done["exit_code"], done["status"], done["memory"]) == (1, "failed", "kept")
    assert done["duration"].endswith("s")
    assert not {"stdout", "stderr", "outputs", "text", "background"} & done.keys()
    assert [event.id for event in events] == [f"{done['run_id']}:{n}" for n in range(1, 7)]


async def test_what_is_wrong_before_the_first_event_is_answered_as_json(api):
    await api.create()
    answer = await api.http.post("/api/sessions/nobody/stream", json={"code": "1"})
    problem_of(answer, 404, "session_not_found")
    wrong = {"code": {"code": ""}, "timeot": {"code": "1", "timeot": 1}}
    wrong["background"] = {"code": "1", "background": True}
    for field, body in wrong.items():
        answer = await api.http.post("/api/sessions/s/stream", json=body)
        assert fields_of(problem_of(answer, 400, "invalid_request")) == [field]


async def test_a_queued_stream_of_a_session_that_is_deleted_is_answered_as_json(api):
    await api.create()
    first = asyncio.create_task(api.run("import time; time.sleep(60)"))
    await api.until_running()
    queued = asyncio.create_task(api.http.post("/api/sessions/s/stream", json={"code": "1"}))

    async def is_queued():
        return (await api.send("GET", "/api/sessions/s/runs")).json["count"] == 2

    await eventually(is_queued)
    await api.send("DELETE", "/api/sessions/s")
    problem_of(await queued, 404, "session_not_found")
    await first


async def test_a_point_that_is_none_of_the_runs_is_refused(api):
    await api.create()
    run_id = (await api.run("print(1)"))["run_id"]
    for last_seen in ("nonsense", "run_00:1", f"{run_id}:99"):
        path = f"/api/sessions/s/runs/{run_id}/events"
        answer = await api.http.get(path, headers={"Last-Event-ID": last_seen})
        problem = problem_of(answer, 400, "invalid_request")
        assert fields_of(problem) == ["Last-Event-ID"]


async def test_a_run_of_long_ago_is_told_by_its_outputs_from_any_point(api):
    await api.create()
    run_id = (await api.run("import sys\nsys.stdout.write('text\\n')\n7"))["run_id"]
    as_it_was = await watch(api, run_id)
    for _ in range(5):
        await api.run("1")
    events = await watch(api, run_id)
    assert [event.name for event in events] == ["stdout", "result", "done"]
    assert events[:2] != as_it_was[:2]
    assert [event.data for event in events] == [event.data for event in as_it_was]
    assert [event.id for event in events] == [f"{run_id}:o{n}" for n in (1, 2, 3)]
    assert await watch(api, run_id, events[0].id) == events[1:]
    # Who has seen some of what is held no more learns that it begins anew.
    again = await watch(api, run_id, as_it_was[0].id)
    assert again[0].name == "restarted"
    assert again[1:] == events


async def test_several_watchers_see_the_same_in_the_same_order(api, tmp_path):
    await api.create()
    async with streaming(api, f"print(-1)\n{HELD}for i in range(200): print(i)") as response:
        events = events_of(response)
        first = await anext(events)
        run_id = response.headers["X-Run-Id"]
        watchers = [asyncio.create_task(watch(api, run_id)) for _ in range(5)]
        let_go(tmp_path)
        seen = [first, *[event async for event in events]]
    assert text_of(seen) == "".join(f"{i}\n" for i in range(-1, 200))
    for watcher in watchers:
        assert await watcher == seen


async def test_a_quiet_run_sends_heartbeats(api, tmp_path, monkeypatch):
    monkeypatch.setattr(api_events, "HEARTBEAT_SECONDS", 0.05)
    await api.create()
    async with streaming(api, HELD) as response:
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith(":")
        let_go(tmp_path)
        rest = [line async for line in lines]
    assert any(line.startswith("event: done") for line in rest)


async def test_a_slow_reader_is_told_what_it_missed_and_holds_nobody_up(make_settings):
    body = json.dumps(
        {"code": "for i in range(3000): print(f'{i:05}' + 'x' * 4000, flush=True)", "timeout": 60}
    )
    async with (
        serving(make_settings(max_output_bytes=64 * 1024)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as http,
    ):
        session = {"language": "python", "session_id": "s"}
        assert (await http.post("/api/sessions", json=session)).status_code == 201
        request = (
            f"POST /api/sessions/s/stream HTTP/1.1\r\nHost: {server.url[7:]}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        async with connection(server.url) as (reader, writer):
            writer.write(request.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            run_id = head.partition(b"X-Run-Id: ")[2].split()[0].decode()

            async def has_ended():
                found = (await http.get(f"/api/sessions/s/runs/{run_id}")).json()
                return found["status"] == "completed"

            # It ends although nobody takes what is sent: 12 MB, which no socket holds.
            await eventually(has_ended, 60)
            data = b""
            while b"event: done" not in data:
                data += await asyncio.wait_for(reader.read(1 << 20), 30)
    said = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")]
    missed = [each for each in said if each["type"] == "missed"]
    assert missed
    assert all(each["bytes"] > 0 for each in missed)
    printed = sum(1 for each in said if each["type"] == "stdout")
    assert printed + sum(each["events"] for each in missed) >= 200
    text = "".join(each.get("content", "") for each in said)
    numbers = [int(line[:5]) for line in text.split("\n") if len(line) == 4005]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 2999


STREAMS, WATCHERS = 20, 5
PIECE = "x" * 10_000
PIECES = 200


def parsed(stream):
    """The ids' numbers and the data of a stream's events; heartbeats are left out."""
    events = [text for text in stream.split(b"\n\n") if text.startswith(b"id: ")]
    heads, said = zip(*(text.split(b"\ndata: ") for text in events), strict=True)
    numbers = [int(head.split(b"\n")[0].rpartition(b":")[2]) for head in heads]
    return numbers, [json.loads(data) for data in said]


async def test_a_hundred_watchers_of_twenty_streams_get_all_of_them_whatever_one_does_not_read():
    everybody, all_read = asyncio.Semaphore(0), asyncio.Event()
    code = f"print('begun', flush=True)\n{HELD}for n in range({PIECES}): print(n, {PIECE!r})"

    async def begin(api, name):
        await api.create(name)
        body = {"code": code, "background": True}
        return (await api.send("POST", f"/api/sessions/{name}/run", body)).json["run_id"]

    async def read(http, name, run_id, is_slow):
        path = f"/api/sessions/{name}/runs/{run_id}/events"
        async with http.stream("GET", path) as response:
            pieces = response.aiter_bytes()
            stream = bytearray(await anext(pieces))
            everybody.release()
            if is_slow:
                await all_read.wait()
            async for piece in pieces:
                stream += piece
        return bytes(stream)

    names = [f"s{number}" for number in range(STREAMS)]
    limits = httpx.Limits(max_connections=None)
    with ServiceProcess(max_output_bytes=4 * MIB, pool_max=0) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=60, limits=limits) as http:
            runs = await asyncio.gather(*(begin(Api(http), name) for name in names))
            # A run's output is held, and its result made of that; nothing for each who reads it,
            # which would be 200 MB.
            with growing_by_less_than(2 * STREAMS * 4 * MIB, service.process.pid):
                readers = [
                    asyncio.create_task(read(http, name, run_id, is_slow=number == 0))
                    for name, run_id in zip(names, runs, strict=True)
                    for number in range(WATCHERS)
                ]
                for _ in readers:
                    await everybody.acquire()
                for name in names:
                    await http.put(f"/api/sessions/{name}/files/go", content=b"")
                quick = [reader for at, reader in enumerate(readers) if at % WATCHERS]
                await asyncio.gather(*quick)
                all_read.set()
                streams = await asyncio.gather(*readers)
    expected = "begun\n" + "".join(f"{number} {PIECE}\n" for number in range(PIECES))
    for stream in streams:
        numbers, said = parsed(stream)
        assert numbers == list(range(1, len(numbers) + 1))
        assert "".join(event["content"] for event in said[:-1]) == expected
        assert (said[-1]["type"], said[-1]["exit_code"]) == ("done", 0)

"""Runs as objects: in the background, waited for, cancelled, repeated, accounted for."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from kernelsvc.keys.ring import LOCAL
from kernelsvc.models.run import RunRequest
from tests.support.api import Api
from tests.support.problems import fields_of, problem_of
from tests.support.waiting import eventually

HELD = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.005)\nos.remove('go')\n"
RUN = "/api/sessions/s/run"
RUNS = "/api/sessions/s/runs"


@pytest.fixture
def make_service(io_loop, make_settings):
    """Start services with changed settings; returns a client of each."""
    stack = AsyncExitStack()

    async def make(**settings):
        server = await stack.enter_async_context(serving(make_settings(**settings)))
        client = AsyncClient(base_url=server.url, timeout=60)
        api = Api(await stack.enter_async_context(client))
        api.server = server
        return api

    yield make
    io_loop.run_sync(stack.aclose)


def let_go(tmp_path):
    (tmp_path / "data" / "workspaces" / "s" / "go").touch()


async def begin(api, code, **fields):
    """A run in the background."""
    answer = await api.send("POST", RUN, {"code": code, "background": True, **fields})
    assert answer.status == 202, answer
    assert answer.headers["Location"] == f"{RUNS}/{answer.json['run_id']}"
    return answer.json


async def found(api, run_id, wait=None):
    answer = await api.send("GET", f"{RUNS}/{run_id}" + (f"?wait={wait}" if wait else ""))
    assert answer.status == 200, answer
    return answer.json


async def until_it_says(api, run_id, text):
    async def says():
        return text in (await found(api, run_id))["stdout"]

    await eventually(says)


# ---- in the background


async def test_a_run_that_ends_while_the_history_is_read_is_in_it(
    api, server, tmp_path, monkeypatch
):
    await api.create()
    run_id = (await begin(api, HELD))["run_id"]
    store = server.service.runs._store
    real = store.latest

    async def latest(session_id):
        kept = await real(session_id)
        let_go(tmp_path)
        assert (await found(api, run_id, wait=30))["status"] == "completed"
        return kept

    monkeypatch.setattr(store, "latest", latest)
    history = (await api.send("GET", RUNS)).json
    assert [run["run_id"] for run in history["runs"]] == [run_id]


async def test_a_background_run_that_finds_no_kernel_says_so_in_its_result(make_service):
    api = await make_service(kernel_start_timeout=0.001)
    await api.create()
    run = await begin(api, "1")
    ended = await found(api, run["run_id"], wait=60)
    assert (ended["status"], ended["error"]["ename"]) == ("failed", "kernel_start_failed")
    assert ended["started_at"] is None


# ---- cancelled


async def test_a_run_that_is_cancelled_in_the_queue_never_begins(api, tmp_path):
    await api.create()
    first = await begin(api, HELD)
    await api.until_running()
    second = await begin(api, "open('mark', 'w')")
    third = await begin(api, "import os; print(os.path.exists('mark'))")
    answer = await api.send("DELETE", f"{RUNS}/{second['run_id']}")
    cancelled = answer.json
    assert (cancelled["status"], cancelled["exit_code"]) == ("interrupted", 130)
    assert cancelled["started_at"] is None
    assert (await found(api, first["run_id"]))["status"] == "running"
    let_go(tmp_path)
    assert (await found(api, third["run_id"], wait=30))["stdout"] == "False\n"
    assert await found(api, second["run_id"]) == cancelled
    session = await api.session()
    assert session["run_count"] == 3


async def test_a_run_that_is_cancelled_in_the_queue_makes_room_at_once(make_service, tmp_path):
    api = await make_service(max_queued_runs=1)
    await api.create()
    first = await begin(api, HELD)
    await api.until_running()
    second = await begin(api, "2")
    answer = await api.http.post(RUN, json={"code": "3", "background": True})
    problem_of(answer, 429, "queue_full")
    await api.send("DELETE", f"{RUNS}/{second['run_id']}")
    third = await begin(api, "3")
    let_go(tmp_path)
    assert (await found(api, first["run_id"], wait=30))["status"] == "completed"
    assert (await found(api, third["run_id"], wait=30))["text"] == "3"


# ---- history


async def test_what_is_older_than_is_kept_is_forgotten(make_service):
    api = await make_service(keep_runs_for=0.5)
    await api.create()
    run = await api.run("1")
    assert (await api.send("GET", RUNS)).json["count"] == 1

    async def is_forgotten():
        return (await api.send("GET", RUNS)).json["count"] == 0

    await eventually(is_forgotten)
    problem_of(await api.http.get(f"{RUNS}/{run['run_id']}"), 404, "run_not_found")


# ---- once


async def test_the_same_key_answers_the_first_run_and_runs_nothing(api):
    await api.create()
    body = {"code": "import os; open('n', 'a').write('x'); print(os.path.getsize('n'))"}
    headers = {"Idempotency-Key": "k-1"}
    answers = await asyncio.gather(
        *(api.send("POST", RUN, body, headers=headers) for _ in range(5))
    )
    assert {answer.status for answer in answers} == {200}
    assert all(answer.json == answers[0].json for answer in answers)
    assert (await api.session())["run_count"] == 1
    again = await api.send("POST", RUN, body, headers=headers)
    assert again.json == answers[0].json
    other = await api.send("POST", RUN, body, headers={"Idempotency-Key": "k-2"})
    assert other.json["run_id"] != again.json["run_id"]


async def test_a_key_keeps_its_run_in_the_history_however_many_follow(make_service):
    api = await make_service(keep_runs=2)
    await api.create()
    headers = {"Idempotency-Key": "k"}
    first = (await api.send("POST", RUN, {"code": "1"}, headers=headers)).json
    for _ in range(20):
        await api.run("2")
    again = await api.send("POST", RUN, {"code": "1"}, headers=headers)
    assert again.json == first
    assert (await api.send("GET", RUNS)).json["count"] == 2


async def test_a_session_that_is_made_twice_with_one_key_is_one(api):
    headers, body = {"Idempotency-Key": "k"}, {"language": "python", "metadata": {"a": 1}}
    made = await asyncio.gather(
        *(api.send("POST", "/api/sessions", body, headers=headers) for _ in range(3))
    )
    assert {answer.status for answer in made} == {201}
    assert len({answer.json["id"] for answer in made}) == 1
    assert (await api.send("GET", "/api/sessions")).json["count"] == 1
    other = {"language": "python"}
    answer = await api.http.post("/api/sessions", json=other, headers=headers)
    problem_of(answer, 409, "idempotency_conflict")


async def test_runs_begin_in_the_order_in_which_they_came_of_whatever_kind(make_service):
    api = await make_service()
    await api.create()
    service = api.server.service
    live = await service._awake(LOCAL, "s")
    jobs = []
    for number in range(6):
        request = RunRequest(code=f"print({number})")
        jobs.append(live.submit(request, lambda: None, see_through=number % 2 == 0))
        if jobs[-1].accepted is not None:
            jobs[-1].accepted.set_result(None)
    ended = []
    for job in jobs:
        job.ended.add_done_callback(lambda done: ended.append(done.result().stdout))
    await asyncio.gather(*(job.ended for job in jobs))
    await eventually(lambda: len(ended) == 6)
    assert ended == [f"{number}\n" for number in range(6)]


async def test_a_request_that_came_to_nothing_may_be_repeated_with_its_key(api, tmp_path):
    await api.create()
    first = await begin(api, HELD)
    await api.until_running()
    body, headers = {"code": "1", "if_busy": "reject"}, {"Idempotency-Key": "k"}
    answer = await api.http.post(RUN, json=body, headers=headers)
    problem_of(answer, 409, "session_busy")
    let_go(tmp_path)
    await found(api, first["run_id"], wait=30)
    assert (await api.send("POST", RUN, body, headers=headers)).json["exit_code"] == 0


async def test_a_key_that_is_none_is_refused(api):
    await api.create()
    for key in ("", "x" * 256, "a b"):
        answer = await api.http.post(RUN, json={"code": "1"}, headers={"Idempotency-Key": key})
        assert fields_of(problem_of(answer, 400, "invalid_request")) == ["Idempotency-Key"]
    assert (await api.session())["run_count"] == 0


# ---- accounted for


async def test_a_run_tells_what_it_took(api):
    await api.create()
    run = await api.run(
        "import time\n"
        "end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\n"
        "x = b'x' * (64 << 20)\n"
        "print('o' * 999)"
    )
    usage = run["usage"]
    assert usage["cpu_seconds"] >= 0.25
    assert usage["wall_seconds"] >= 0.3
    assert usage["queue_seconds"] >= 0
    assert usage["peak_memory_bytes"] > 64 << 20
    assert usage["output_bytes"] == 1000
    idle = (await api.run("import time; time.sleep(0.2)"))["usage"]
    assert idle["cpu_seconds"] < 0.2
    assert idle["wall_seconds"] >= 0.2


async def test_waiting_is_told_apart_from_running(api, tmp_path):
    await api.create()
    first = await begin(api, HELD)
    await api.until_running()
    began = time.monotonic()
    second = await begin(api, "1")
    await asyncio.sleep(0.3)
    let_go(tmp_path)
    usage = (await found(api, second["run_id"], wait=30))["usage"]
    assert 0.3 <= usage["queue_seconds"] <= time.monotonic() - began
    assert usage["wall_seconds"] < 0.3
    assert (await found(api, first["run_id"]))["usage"]["wall_seconds"] >= 0.3


async def test_what_a_kernel_took_that_was_killed_is_known(api):
    await api.create()
    run = await api.run("while True: pass", timeout=1.3)
    assert run["timed_out"]
    assert run["usage"]["cpu_seconds"] > 0.3

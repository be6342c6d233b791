"""Limits of the service itself: sessions, kernels, memory of the machine."""

import asyncio
import time

import httpx
import pytest

from kernelsvc.sessions.capacity import FIRST_USE_SECONDS, Capacity, CapacityPolicy
from tests.support.api import Api
from tests.support.problems import problem_of, raw


@pytest.fixture
def limited(io_loop, serve):
    """Start a service with changed settings and return its client."""
    clients = []

    def start(**changes):
        server = serve(**changes)
        clients.append(httpx.AsyncClient(base_url=server.url, timeout=60))
        return Api(clients[-1])

    yield start
    for client in clients:
        io_loop.run_sync(client.aclose)


async def states(api):
    answer = await api.send("GET", "/api/sessions")
    return {session["id"]: session["state"] for session in answer.json["sessions"]}


CREATE = '{"language": "python"}'


def test_one_session_too_many_is_429_until_one_is_deleted(io_loop, limited):
    api = limited(max_sessions=2)

    async def use():
        await api.create("a")
        await api.create("b")
        answer = await raw(api, "POST", "/api/sessions", CREATE)
        problem_of(answer, 429, "too_many_sessions")
        assert int(answer.headers["Retry-After"]) >= 1
        await api.send("DELETE", "/api/sessions/a")
        await api.create("c")

    io_loop.run_sync(use)


def test_for_one_kernel_too_many_the_idlest_session_sleeps(io_loop, limited):
    api = limited(max_kernels=2)

    async def use():
        for session_id in ("a", "b"):
            await api.create(session_id)
            await api.run("1", session_id)
        await api.run("1", "a")
        await api.create("c")
        await api.run("1", "c")
        assert await states(api) == {"a": "idle", "b": "sleeping", "c": "idle"}
        assert (await api.run("1", "b"))["memory_detail"] == "the session was asleep"

    io_loop.run_sync(use)


def test_where_every_kernel_is_at_work_one_more_is_503_and_the_others_go_on(io_loop, limited):
    api = limited(max_kernels=1)

    async def use():
        await api.create("a")
        running = asyncio.create_task(
            api.run("import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)", "a")
        )
        await api.until_running("a")
        await api.create("b")
        answer = await raw(api, "POST", "/api/sessions/b/run", '{"code": "1"}')
        problem_of(answer, 503, "no_capacity")
        assert int(answer.headers["Retry-After"]) >= 1
        await api.send("POST", "/api/sessions/a/interrupt")
        assert (await running)["exit_code"] == 130
        assert (await api.run("1", "b"))["exit_code"] == 0

    io_loop.run_sync(use)


def test_where_memory_runs_short_idle_sessions_sleep_and_new_kernels_are_refused(io_loop, limited):
    api = limited(min_free_memory=1 << 50)

    async def use():
        await api.create("a")
        answer = await raw(api, "POST", "/api/sessions/a/run", '{"code": "1"}')
        problem_of(answer, 503, "no_capacity")

    io_loop.run_sync(use)


class Idler:
    def __init__(self, active_at, *, busy=False):
        self.active_at, self.is_busy, self.has_kernel = active_at, busy, True
        self.on_sleep = lambda: None

    async def sleep(self):
        self.has_kernel = False
        self.on_sleep()


class Reserve:
    def __init__(self, size):
        self.size = size

    async def shrink(self):
        had_one = self.size > 0
        self.size -= had_one
        return had_one


async def test_memory_is_relieved_by_the_idlest_first_and_no_more_than_needed():
    idlers = [Idler(3), Idler(1), Idler(2), Idler(0, busy=True)]
    free = [100]

    def freed():
        free[0] += 100

    for idler in idlers:
        idler.on_sleep = freed
    policy = CapacityPolicy(max_kernels=10, max_starting=1, min_free_memory=250)
    await Capacity(policy, lambda: idlers, Reserve(0), lambda: free[0]).relieve()
    assert [idler.has_kernel for idler in idlers] == [True, False, False, True]


async def test_what_waits_in_reserve_goes_before_a_session_is_put_to_sleep():
    idlers, reserve = [Idler(1), Idler(2)], Reserve(2)
    capacity = Capacity(CapacityPolicy(4, 1, 0), lambda: idlers, reserve)
    for idler in idlers:
        idler.on_sleep = capacity.give_back
    for left in (2, 2, 1, 0):
        await capacity.take()
        assert reserve.size == left
    assert not await capacity.may_prepare()
    assert [idler.has_kernel for idler in idlers] == [True, True]
    await capacity.take()
    assert [idler.has_kernel for idler in idlers] == [False, True]


async def test_nothing_is_prepared_where_memory_is_about_to_run_short():
    free = [700]
    policy = CapacityPolicy(max_kernels=4, max_starting=1, min_free_memory=400)
    capacity = Capacity(policy, list, Reserve(0), lambda: free[0])
    assert not await capacity.may_prepare()
    free[0] = 800
    assert await capacity.may_prepare()


async def test_nothing_is_prepared_while_a_session_waits_for_its_kernel():
    capacity = Capacity(CapacityPolicy(4, 1, 0), list, Reserve(0))
    async with capacity.start():
        prepares = asyncio.ensure_future(capacity.may_prepare())
        done, _ = await asyncio.wait([prepares], timeout=0.05)
        assert not done
    assert await prepares


async def test_nothing_is_begun_for_the_reserve_while_a_kernel_starts_and_a_moment_after():
    capacity = Capacity(CapacityPolicy(4, 1, 0), list, Reserve(0), lambda: 1)
    async with capacity.start():
        preparing = asyncio.create_task(capacity.may_prepare())
        await asyncio.sleep(0)
        assert not preparing.done()
        started = time.monotonic()
    assert await preparing
    assert time.monotonic() >= started + FIRST_USE_SECONDS
    began = time.monotonic()
    assert await capacity.may_prepare()
    assert time.monotonic() < began + FIRST_USE_SECONDS

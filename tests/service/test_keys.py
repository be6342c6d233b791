"""Who may use a service, and what of it: keys, owners, quotas."""

import asyncio
import json
import time

import pytest

from kernelsvc.app import serving
from kernelsvc.errors import CannotStart
from kernelsvc.keys.ring import MAX_AGE_SECONDS
from kernelsvc.keys.secret import new_key
from tests.support.connection import connection
from tests.support.keys import bearer, clients, key_store, make_key, revoke_key
from tests.support.problems import fields_of, problem_of, raw
from tests.support.waiting import eventually

CONFIGURED = "a-key-from-the-configuration"
SESSION = '{"language": "python", "session_id": "s", "persistent": false}'


@pytest.fixture
def settings(make_settings):
    """Settings of a service that has one key."""
    return make_settings(api_key=CONFIGURED)


# Every endpoint that there is, with a body that it takes.
ENDPOINTS = [
    ("POST", "/api/sessions", SESSION),
    ("GET", "/api/sessions", ""),
    ("DELETE", "/api/sessions", ""),
    ("GET", "/api/sessions/s", ""),
    ("PATCH", "/api/sessions/s", '{"default_timeout": 5}'),
    ("DELETE", "/api/sessions/s", ""),
    ("POST", "/api/sessions/s/run", "{\"code\": \"open('mark', 'w')\"}"),
    ("GET", "/api/sessions/s/runs", ""),
    ("GET", "/api/sessions/s/runs/RUN", ""),
    ("POST", "/api/sessions/s/stream", "{\"code\": \"open('mark', 'w')\"}"),
    ("GET", "/api/sessions/s/runs/RUN/events", ""),
    ("DELETE", "/api/sessions/s/runs/RUN", ""),
    ("PUT", "/api/sessions/s/code", '{"code": "1"}'),
    ("GET", "/api/sessions/s/code", ""),
    ("GET", "/api/sessions/s/host?port=80", ""),
    ("POST", "/api/sessions/s/duplicate", '{"id": "copy"}'),
    ("POST", "/api/sessions/s/interrupt", ""),
    ("POST", "/api/sessions/s/restart", ""),
    ("POST", "/api/sessions/s/sleep", ""),
    ("POST", "/api/sessions/s/wake", ""),
    ("POST", "/api/execute", '{"language": "python", "code": "1"}'),
    ("GET", "/api/tools", ""),
    ("GET", "/metrics", ""),
]
OF_A_SESSION = [endpoint for endpoint in ENDPOINTS if endpoint[1].startswith("/api/sessions/s")]


def refused_for_want_of_a_key(answer):
    problem = problem_of(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Connection"].lower() == "close"
    return problem


# ---- authentication


@pytest.mark.parametrize(("method", "path", "body"), [*ENDPOINTS, ("GET", "/nothing", "")])
async def test_without_a_key_every_endpoint_is_401_and_nothing_happens(
    settings, method, path, body
):
    async with serving(settings) as server, clients(server, None, CONFIGURED) as (nobody, owner):
        await owner.create(persistent=False)
        before = (await owner.session(), (await owner.send("GET", "/api/sessions/s/runs")).json)
        problem = refused_for_want_of_a_key(await raw(nobody, method, path, body))
        assert "Authorization: Bearer" in problem["error"]
        after = (await owner.session(), (await owner.send("GET", "/api/sessions/s/runs")).json)
        assert after == before
        assert (await owner.send("GET", "/api/sessions")).json["count"] == 1


async def test_the_probes_need_no_key(settings):
    async with serving(settings) as server, clients(server, None) as (nobody,):
        for path in ("/health/live", "/health/ready"):
            assert (await nobody.send("GET", path)).json == {"status": "ok"}


async def test_a_key_of_the_configuration_lets_its_owner_work(settings):
    async with serving(settings) as server, clients(server, CONFIGURED) as (api,):
        assert (await api.create())["owner"] == "default"
        assert (await api.run("6 * 7"))["text"] == "42"


async def test_a_key_is_the_only_way_in(settings):
    ways = [
        {"X-API-Key": CONFIGURED},
        {"Authorization": CONFIGURED},
        {"Authorization": f"Basic {CONFIGURED}"},
        {"Authorization": f"Bearer {CONFIGURED}x"},
        {"Authorization": f"Bearer {CONFIGURED[:-1]}"},
        {"Authorization": f"Bearer {CONFIGURED.upper()}"},
        {"Authorization": f"Bearer {CONFIGURED}, Bearer {CONFIGURED}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer é".encode()},
        {"Cookie": f"Authorization=Bearer {CONFIGURED}"},
    ]
    async with serving(settings) as server, clients(server, None) as (nobody,):
        for headers in ways:
            refused_for_want_of_a_key(await nobody.http.get("/api/sessions", headers=headers))
        answer = await nobody.http.get("/api/sessions", params={"api_key": CONFIGURED})
        refused_for_want_of_a_key(answer)
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = {"Authorization": f"{scheme} {CONFIGURED}"}
            assert (await nobody.http.get("/api/sessions", headers=headers)).status_code == 200


async def test_unknown_expired_and_revoked_keys_are_told_the_same(settings):
    keys = [
        str(new_key()),
        await make_key(settings, expires_in=-1),
        await make_key(settings),
        "nonsense",
    ]
    await revoke_key(settings, keys[2])
    async with serving(settings) as server, clients(server, *keys) as apis:
        problems = [refused_for_want_of_a_key(await api.http.get("/api/sessions")) for api in apis]
    assert len({problem["error"] for problem in problems}) == 1


async def test_two_authorization_headers_are_refused_even_if_one_is_right(settings):
    async with serving(settings) as server, connection(server.url) as (reader, writer):
        header = f"Authorization: Bearer {CONFIGURED}\r\n"
        writer.write(
            f"GET /api/sessions HTTP/1.1\r\nHost: localhost\r\n{header}{header}\r\n".encode()
        )
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 401 ")


# ---- keys that come and go while the service runs


async def test_a_key_made_while_the_service_runs_works_at_once(settings):
    async with serving(settings) as server:
        key = await make_key(settings, "alice")
        async with clients(server, key) as (alice,):
            assert (await alice.create(persistent=False))["owner"] == "alice"


async def test_the_first_key_locks_a_service_that_was_open(make_settings):
    settings = make_settings()
    async with serving(settings) as server, clients(server, None) as (nobody,):
        assert (await nobody.create(persistent=False))["owner"] == "local"
        key = await make_key(settings, "alice")
        locked_by = time.monotonic() + MAX_AGE_SECONDS + 1

        async def is_locked():
            return (await nobody.http.get("/api/sessions")).status_code == 401

        await eventually(is_locked)
        assert time.monotonic() < locked_by
        async with clients(server, key) as (alice,):
            assert (await alice.send("GET", "/api/sessions")).json["count"] == 0
            await revoke_key(settings, key)

            async def is_out():
                return (await alice.http.get("/api/sessions")).status_code == 401

            await eventually(is_out)
        # Still locked: who had no key gets nothing by the last key's end.
        assert (await nobody.http.get("/api/sessions")).status_code == 401


async def test_a_revoked_key_is_out_within_the_time_that_is_promised(settings):
    key = await make_key(settings)
    async with serving(settings) as server, clients(server, key) as (api,):
        assert (await api.http.get("/api/sessions")).status_code == 200
        await revoke_key(settings, key)
        revoked = time.monotonic()

        async def is_out():
            return (await api.http.get("/api/sessions")).status_code == 401

        await eventually(is_out)
        assert time.monotonic() - revoked < MAX_AGE_SECONDS + 1


async def test_the_last_use_of_a_key_is_noted(settings):
    used, unused = await make_key(settings), await make_key(settings)
    async with serving(settings) as server, clients(server, used) as (api,):
        await asyncio.gather(*(api.send("GET", "/api/sessions") for _ in range(10)))
    async with key_store(settings) as store:
        last = {key.id: key.last_used_at for key in await store.all()}
    assert [last[key.split("_")[1]] is None for key in (used, unused)] == [False, True]


# ---- starting without a key


async def test_without_a_key_no_address_but_loopback_is_served(make_settings):
    with pytest.raises(CannotStart, match="kernelsvc keys create") as refused:
        async with serving(make_settings(host="0.0.0.0")):
            pass
    assert "KERNELSVC_API_KEY" in str(refused.value)


async def test_with_a_key_every_address_is_served_and_needs_it(make_settings):
    settings = make_settings(host="0.0.0.0")
    key = await make_key(settings, "alice")
    async with (
        serving(settings) as server,
        clients(server, None, key) as (nobody, alice),
    ):
        assert (await nobody.http.get("/api/sessions")).status_code == 401
        assert (await alice.http.get("/api/sessions")).status_code == 200
        await revoke_key(settings, key)

        async def is_out():
            return (await alice.http.get("/api/sessions")).status_code == 401

        await eventually(is_out)
        assert (await nobody.http.get("/api/sessions")).status_code == 401


async def test_a_revoked_key_alone_does_not_open_other_addresses(make_settings):
    settings = make_settings(host="0.0.0.0")
    await revoke_key(settings, await make_key(settings))
    with pytest.raises(CannotStart):
        async with serving(settings):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
async def test_on_loopback_no_key_is_needed_and_everybody_is_local(make_settings, host):
    async with serving(make_settings(host=host)) as server, clients(server, None) as (api,):
        assert (await api.create(persistent=False))["owner"] == "local"
        answer = await api.http.get("/api/sessions", headers=bearer("left-over"))
        assert answer.json()["count"] == 1


# ---- owners


@pytest.fixture
def two(io_loop, settings):
    """Two owners' keys."""

    async def make():
        return await make_key(settings, "alice"), await make_key(settings, "bob")

    return io_loop.run_sync(make)


@pytest.mark.parametrize(("method", "path", "body"), OF_A_SESSION)
async def test_to_others_a_session_is_as_if_it_did_not_exist(settings, two, method, path, body):
    async with serving(settings) as server, clients(server, *two) as (alice, bob):
        await alice.create(persistent=False)
        run = await alice.run("1")
        before = (await alice.session(), (await alice.send("GET", "/api/sessions/s/runs")).json)
        path = path.replace("RUN", run["run_id"])
        there = problem_of(await raw(bob, method, path, body), 404, "session_not_found")
        absent = await raw(bob, method, path.replace("sessions/s", "sessions/n"), body)
        missing = problem_of(absent, 404, "session_not_found")
        assert there["error"] == missing["error"].replace("'n'", "'s'")
        after = (await alice.session(), (await alice.send("GET", "/api/sessions/s/runs")).json)
        assert after == before


async def test_the_same_requests_work_for_the_owner(settings, two):
    async with serving(settings) as server, clients(server, two[0]) as (alice,):
        for method, path, body in OF_A_SESSION:
            await alice.create()
            run = await alice.run("1")
            await alice.send("PUT", "/api/sessions/s/code", {"code": "2"})
            answer = await raw(alice, method, path.replace("RUN", run["run_id"]), body)
            assert answer.status_code // 100 == 2, (method, path, answer.text)
            await alice.http.delete("/api/sessions/s")


async def test_to_others_a_sleeping_session_does_not_exist_either(settings, two):
    async with serving(settings) as server, clients(server, two[0]) as (alice,):
        await alice.create()
    async with serving(settings) as server, clients(server, *two) as (alice, bob):
        for method, path, body in OF_A_SESSION:
            problem_of(await raw(bob, method, path, body), 404, "session_not_found")
        assert (await alice.session())["state"] == "sleeping"


async def test_each_owner_lists_and_deletes_its_own_only(settings, two):
    async with serving(settings) as server, clients(server, *two) as (alice, bob):
        for api, name in ((alice, "a1"), (bob, "b1"), (alice, "a2"), (bob, "b2")):
            await api.create(name, persistent=False)
        assert await ids(alice) == ["a1", "a2"]
        assert await ids(bob, "?limit=1") == ["b1"]
        assert await ids(bob, "?cursor=b1") == ["b2"]
        gone = (await alice.send("DELETE", "/api/sessions")).json
        assert (gone["deleted_count"], sorted(gone["deleted_sessions"])) == (2, ["a1", "a2"])
        assert await ids(alice) == []
        assert await ids(bob) == ["b1", "b2"]


async def ids(api, query=""):
    answer = await api.send("GET", f"/api/sessions{query}")
    assert answer.status == 200, answer
    return [session["id"] for session in answer.json["sessions"]]


async def test_anothers_session_is_as_unknown_a_cursor_as_any(settings, two):
    async with serving(settings) as server, clients(server, *two) as (alice, bob):
        await alice.create("s", persistent=False)
        problems = []
        for cursor in ("s", "n"):
            answer = await raw(bob, "GET", f"/api/sessions?cursor={cursor}", "")
            problem = problem_of(answer, 400, "invalid_request")
            assert fields_of(problem) == ["cursor"]
            problems.append(problem["error"].replace(f"'{cursor}'", "?"))
        assert problems[0] == problems[1]


async def test_a_taken_id_is_409_whoever_has_it_and_nothing_else_is_told(settings, two):
    async with serving(settings) as server, clients(server, *two) as (alice, bob):
        await alice.create(persistent=False, metadata={"secret": "of-alice"})
        problems = [
            problem_of(await raw(api, "POST", "/api/sessions", SESSION), 409, "session_exists")
            for api in (alice, bob)
        ]
        assert problems[0]["error"] == problems[1]["error"]
        assert "alice" not in json.dumps(problems)
        assert (await alice.session())["metadata"] == {"secret": "of-alice"}


async def test_keys_of_one_owner_share_its_sessions(settings, two):
    other = await make_key(settings, "alice")
    async with serving(settings) as server, clients(server, two[0], other) as (alice, again):
        await alice.create()
        await alice.run("x = 1")
        assert (await again.run("x"))["text"] == "1"


# ---- scopes


async def test_an_admin_lists_other_owners_sessions_when_asking_for_them(settings, two):
    admin = await make_key(settings, "carol", admin=True)
    async with serving(settings) as server, clients(server, *two, admin) as (alice, bob, carol):
        for api, name in ((alice, "a1"), (bob, "b1"), (carol, "c1"), (alice, "a2")):
            await api.create(name, persistent=False)
        assert await ids(carol) == ["c1"]
        assert await ids(carol, "?owner=alice") == ["a1", "a2"]
        assert await ids(carol, "?owner=*") == ["a1", "b1", "c1", "a2"]
        assert await ids(carol, "?owner=*&limit=2&cursor=b1") == ["c1", "a2"]
        assert await ids(carol, "?owner=nobody") == []
        # Seeing them in the list is all.
        assert (await raw(carol, "DELETE", "/api/sessions/a1", "")).status_code == 404
        assert (await carol.send("DELETE", "/api/sessions")).json["deleted_sessions"] == ["c1"]


async def test_without_the_scope_other_owners_sessions_are_403(settings, two):
    async with serving(settings) as server, clients(server, *two) as (alice, bob):
        await bob.create(persistent=False)
        for owner in ("bob", "*", "nobody", ""):
            answer = await raw(alice, "GET", f"/api/sessions?owner={owner}", "")
            problem = problem_of(answer, 403, "forbidden")
            assert "admin" in problem["error"]
        assert await ids(alice, "?owner=alice") == []


# ---- quotas


def created(answers):
    return sorted(answer.status_code for answer in answers)


def told_to_wait(answer):
    assert problem_of(answer, 429, "quota_exceeded")
    return int(answer.headers["Retry-After"])


async def test_of_a_burst_of_new_sessions_as_many_are_made_as_the_quota_allows(settings):
    key = await make_key(settings, "alice", max_sessions=3)
    async with serving(settings) as server, clients(server, key, CONFIGURED) as (alice, other):
        body = '{"language": "python", "persistent": false}'

        async def burst():
            return await asyncio.gather(
                *(raw(alice, "POST", "/api/sessions", body) for _ in range(12))
            )

        answers = await burst()
        assert created(answers) == [201] * 3 + [429] * 9
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert told_to_wait(refused) >= 1
        assert "max_sessions is 3" in refused.json()["error"]
        assert len(await ids(alice)) == 3
        assert (await raw(other, "POST", "/api/sessions", body)).status_code == 201
        await alice.http.delete(f"/api/sessions/{(await ids(alice))[0]}")
        assert created(await burst()) == [201] + [429] * 11


async def test_sessions_that_were_not_made_do_not_count(settings):
    key = await make_key(settings, "alice", max_sessions=2)
    async with serving(settings) as server, clients(server, key) as (alice,):
        await alice.create(persistent=False)
        for _ in range(3):
            assert (await raw(alice, "POST", "/api/sessions", SESSION)).status_code == 409
            body = '{"language": "cobol"}'
            assert (await raw(alice, "POST", "/api/sessions", body)).status_code == 400
        await alice.create("t", persistent=False)


async def test_sessions_of_an_earlier_service_count(settings):
    key = await make_key(settings, "alice", max_sessions=1)
    async with serving(settings) as server, clients(server, key) as (alice,):
        await alice.create(persistent=False)
    async with serving(settings) as server, clients(server, key) as (alice,):
        body = '{"language": "python"}'
        told_to_wait(await raw(alice, "POST", "/api/sessions", body))
        await alice.http.delete("/api/sessions")
        assert (await raw(alice, "POST", "/api/sessions", body)).status_code == 201


async def test_of_a_burst_of_runs_as_many_begin_as_the_quota_allows(settings):
    key = await make_key(settings, "alice", max_parallel_runs=2)
    async with serving(settings) as server, clients(server, key) as (alice,):
        wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"
        for name in "ab":
            await alice.create(name)
            await alice.run("1", name)

        def run(name):
            path = f"/api/sessions/{name}/run"
            return asyncio.create_task(raw(alice, "POST", path, json.dumps({"code": wait})))

        runs = [run("ab"[number % 2]) for number in range(8)]
        refused = []
        async with asyncio.timeout(10):
            for done in asyncio.as_completed(runs):
                refused.append(await done)
                if len(refused) == 6:
                    break
        assert [told_to_wait(answer) >= 1 for answer in refused] == [True] * 6
        assert "max_parallel_runs is 2" in refused[0].json()["error"]
        for name in "ab":
            (settings.data_dir / "workspaces" / name / "go").touch()
        answers = await asyncio.gather(*runs)
        assert created(answers) == [200] * 2 + [429] * 6
        assert (await alice.run("1", "a"))["exit_code"] == 0


async def test_runs_a_minute_are_bounded_and_who_is_refused_is_told_how_long(settings):
    key = await make_key(settings, "alice", max_runs_per_minute=3)
    async with serving(settings) as server, clients(server, key) as (alice,):
        await alice.create()
        await alice.run("1")
        began = time.monotonic()
        for path, body, status in (
            ("/api/sessions/nobody/run", '{"code": "1"}', 404),
            ("/api/sessions/s/run", '{"code": ""}', 400),
        ):
            for _ in range(3):
                assert (await raw(alice, "POST", path, body)).status_code == status
        path, body = "/api/sessions/s/run", '{"code": "1"}'
        burst = await asyncio.gather(*(raw(alice, "POST", path, body) for _ in range(6)))
        assert created(burst) == [200] * 2 + [429] * 4
        seconds = told_to_wait(await raw(alice, "POST", path, body))
        assert 58 - (time.monotonic() - began) <= seconds <= 60
        assert (await alice.session())["run_count"] == 3


async def test_a_run_that_its_client_left_counts_until_it_ends(settings):
    key = await make_key(settings, "alice", max_parallel_runs=1)
    async with serving(settings) as server, clients(server, key) as (alice,):
        await alice.create()
        wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"
        left = asyncio.create_task(alice.run(wait))
        await alice.until_running()
        left.cancel()
        body = '{"code": "1"}'
        told_to_wait(await raw(alice, "POST", "/api/sessions/s/run", body))
        (settings.data_dir / "workspaces" / "s" / "go").touch()

        async def is_let_in():
            answer = await raw(alice, "POST", "/api/sessions/s/run", body)
            return answer.status_code == 200

        await eventually(is_let_in)

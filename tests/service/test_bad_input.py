"""Bad input: always API.md's error object with the right status, never a 500, never a change."""

import asyncio
import json
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient
from tornado.ioloop import IOLoop

from kernelsvc.app import serving
from kernelsvc.kernels.languages import Languages
from kernelsvc.settings import load_settings
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.problems import everything, fields_of, problem_of, raw, refused

CREATE = ("POST", "/api/sessions")
PATCH = ("PATCH", "/api/sessions/s")
RUN = ("POST", "/api/sessions/s/run")
WITH_BODY = [pytest.param(route, id=name) for name, route in
             {"create": CREATE, "patch": PATCH, "run": RUN}.items()]  # fmt: skip

# What makes a body of these routes acceptable; a session that is not persistent needs no kernel.
VALID: dict[tuple[str, str], dict[str, Any]] = {
    CREATE: {"language": "python", "session_id": "new", "persistent": False},
    PATCH: {},
    RUN: {"code": "1"},
}

HUGE = 10**400


# One service for the whole file, and one session as long as nothing changes it: nothing should.


@pytest.fixture(scope="module")
def io_loop():
    loop = IOLoop(make_current=False)
    yield loop
    loop.close(all_fds=True)


@pytest.fixture(scope="module")
def server(io_loop, tmp_path_factory):
    runtime = Path(tempfile.mkdtemp(prefix="ks"))
    stack = AsyncExitStack()
    data = tmp_path_factory.mktemp("data")
    settings = load_settings(port=0, data_dir=data, runtime_dir=runtime)
    yield io_loop.run_sync(lambda: stack.enter_async_context(serving(settings)))
    io_loop.run_sync(stack.aclose)
    shutil.rmtree(runtime)


@pytest.fixture(scope="module")
def client(io_loop, server):
    http = AsyncClient(base_url=server.url, timeout=30)
    yield Api(http)
    io_loop.run_sync(http.aclose)


@pytest.fixture(scope="module")
def api(client):
    return client


@pytest.fixture
def empty(io_loop, api):
    """No sessions."""
    io_loop.run_sync(lambda: api.send("DELETE", "/api/sessions"))


@asynccontextmanager
async def limited(make_settings, **changes):
    """A client of a service with other settings."""
    async with (
        serving(make_settings(**changes)) as server,
        AsyncClient(base_url=server.url) as http,
    ):
        yield Api(http)


class Pristine:
    """What there is when there is nothing but the session "s", as `s` made it."""

    state: Any = None


@pytest.fixture(scope="module")
def pristine():
    return Pristine()


@pytest.fixture
def s(io_loop, api, pristine):
    """A session "s" whose every field has a value that a wrongly taken request would change."""

    async def make() -> None:
        if await everything(api) == pristine.state:
            return
        await api.send("DELETE", "/api/sessions")
        await api.create(
            persistent=False,
            default_timeout=77,
            sleep_after="11m",
            on_timeout="interrupt",
            env={"KEPT": "1"},
            data={"kept": [1]},
            metadata={"kept": True},
        )
        pristine.state = await everything(api)

    io_loop.run_sync(make)


def with_field(route: tuple[str, str], name: str, value: Any) -> str:
    return json.dumps({**VALID[route], name: value})


# ---- bodies

NOT_JSON = {
    "empty": b"",
    "blank": b"  ",
    "a word": b"nope",
    "torn": b'{"language": "python"',
    "single quotes": b"{'language': 'python'}",
    "comma too many": b'{"language": "python",}',
    "two values": b"{} {}",
    "not UTF-8": b'{"language": "\xff"}',
    "NUL": b"\0",
    "raw control character": b'{"language": "py\nthon"}',
    "a number with too many digits": b'{"default_timeout": 1' + b"0" * 5000 + b"}",
    "a million brackets": b"[" * 1_000_000,
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_a_body_that_is_no_json_is_refused(api, s, route, body):
    problem = await refused(api, *route, body)
    # A run without a body is one without code, which may be stored.
    assert fields_of(problem) == ["code" if (route, body) == (RUN, b"") else "body"]


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("body", ["[]", '[{"language": "python"}]', '"x"', "1", "true", "null"])
async def test_json_that_is_no_object_is_refused(api, s, route, body):
    problem = await refused(api, *route, body)
    assert fields_of(problem) == ["body"]


@pytest.mark.parametrize("route", [pytest.param(CREATE, id="create"), pytest.param(RUN, id="run")])
async def test_an_empty_object_is_refused_where_a_field_is_required(api, s, route):
    problem = await refused(api, *route, "{}")
    assert fields_of(problem) == ["language" if route is CREATE else "code"]
    assert "required" in problem["error"]


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded",
                                  "multipart/form-data; boundary=x", "application/jsonx",
                                  "application/xml", "json"])  # fmt: skip
async def test_a_body_of_another_content_type_is_415(api, s, route, kind):
    body = json.dumps(VALID[route])
    problem = await refused(api, *route, body, status=415, code="unsupported_media_type", kind=kind)
    assert "application/json" in problem["error"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"]
)
async def test_json_is_taken_however_its_content_type_is_written(api, s, kind):
    answer = await raw(api, *PATCH, '{"default_timeout": 5}', kind)
    assert answer.status_code == 200
    assert (await api.session())["default_timeout"] == 5


# ---- sizes


async def pieces(count: int) -> AsyncIterator[bytes]:
    yield b'{"language": "'
    for _ in range(count):
        yield b"a" * 1000
        await asyncio.sleep(0)
    yield b'"}'


@pytest.mark.parametrize("route", WITH_BODY)
async def test_a_body_over_the_limit_is_413_and_says_the_limit(make_settings, route):
    async with limited(make_settings, max_body_bytes=10_000) as api:
        await api.create(persistent=False)
        body = json.dumps({**VALID[route], "metadata": {"a": "x" * 10_000}})
        problem = await refused(api, *route, body, status=413, code="too_large")
        assert "10000 bytes" in problem["error"]


@pytest.mark.parametrize("route", WITH_BODY)
async def test_a_chunked_body_over_the_limit_is_413(make_settings, route):
    async with limited(make_settings, max_body_bytes=10_000) as api:
        await api.create(persistent=False)
        before = await everything(api)
        method, path = route
        answer = await api.http.request(
            method, path, content=pieces(20), headers={"Content-Type": "application/json"}
        )
        problem_of(answer, 413, "too_large")
        assert await everything(api) == before


async def test_a_body_of_exactly_the_limit_is_taken(make_settings):
    async with limited(make_settings, max_body_bytes=10_000) as api:
        body = json.dumps({**VALID[CREATE], "metadata": {"a": ""}})
        body = body.replace('""', '"' + "x" * (10_000 - len(body)) + '"')
        assert len(body) == 10_000
        assert (await raw(api, *CREATE, body)).status_code == 201


async def test_a_body_announced_over_the_limit_is_413_before_it_is_sent(api, server):
    async with connection(server.url) as (reader, writer):
        head = (
            "POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
        writer.write(f"{head}Content-Length: 5000000000\r\nExpect: 100-continue\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_large"


@pytest.mark.parametrize(
    "header",
    ["Content-Length: x", "Content-Length: -1", "Content-Length: 1e3", "Content-Length: ",
     "Content-Length: 5, 6", "Transfer-Encoding: nonsense"],
)  # fmt: skip
async def test_a_nonsensical_length_is_400_and_the_service_lives_on(api, server, header):
    async with connection(server.url) as (reader, writer):
        head = (
            "POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
        writer.write(f"{head}{header}\r\n\r\n{{}}".encode())
        answer = await asyncio.wait_for(reader.read(200), 5)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert (await api.send("GET", "/health/live")).status == 200


# ---- fields


@pytest.mark.parametrize("route", WITH_BODY)
@pytest.mark.parametrize("name", ["timeot", "Timeout", "default_timout", "id", "state", ""])
async def test_an_unknown_field_is_named_and_changes_nothing(api, s, route, name):
    problem = await refused(api, *route, with_field(route, name, 5))
    assert fields_of(problem) == [name or "body"]
    assert "not a field" in problem["error"]


async def test_every_wrong_field_is_named_at_once(api, s):
    body = {"language": 1, "persistent": "yes", "default_timeout": 0, "typo": 1}
    problem = await refused(api, *CREATE, json.dumps(body))
    assert sorted(fields_of(problem)) == ["default_timeout", "language", "persistent", "typo"]


WRONG_TYPES: list[tuple[tuple[str, str], str, list[Any]]] = [
    (CREATE, "language", [1, None, True, ["python"], {}]),
    (CREATE, "session_id", [1, True, ["a"], {}]),
    (CREATE, "persistent", ["true", 1, "no", []]),
    (CREATE, "on_timeout", ["never", "Restart", 1, True, [], ""]),
    (CREATE, "snapshots", ["yes", 1, 0, [], {}]),
    (CREATE, "data", [[], "x", 1, True]),
    (CREATE, "metadata", [[], "x", 1, True]),
    (CREATE, "allowInternetAccess", ["true", 1, "no", {}]),
    (CREATE, "allowPublicAccess", ["true", 0, "no", {}]),
    (PATCH, "on_timeout", ["never", 1, True, []]),
    (PATCH, "snapshots", ["yes", 1, []]),
    (PATCH, "data", [[], "x", 1, True]),
    (PATCH, "metadata", [[], "x", 1, True]),
    (PATCH, "allowInternetAccess", ["true", 1, "no", {}]),
    (PATCH, "allowPublicAccess", ["true", 0, "no", {}]),
    (RUN, "code", [1, None, True, ["1"], {}]),
    (RUN, "stdin", [1, True, ["a"], {}]),
    (RUN, "on_timeout", ["never", 1, True, []]),
    (RUN, "if_busy", ["wait", 1, True, None, []]),
]


@pytest.mark.parametrize(
    ("route", "name", "value"),
    [
        pytest.param(route, name, value, id=f"{route[0]}-{name}-{value!r}")
        for route, name, values in WRONG_TYPES
        for value in values
    ],
)
async def test_a_field_of_the_wrong_type_is_named(api, s, route, name, value):
    problem = await refused(api, *route, with_field(route, name, value))
    assert fields_of(problem) == [name]


@pytest.mark.parametrize("language", ["cobol", "", "python ", "python3.11", "../python", "\0"])
async def test_an_unknown_language_is_refused_and_the_known_are_named(api, s, language):
    problem = await refused(api, *CREATE, with_field(CREATE, "language", language))
    assert fields_of(problem) == ["language"]
    assert repr(language) in problem["error"]
    assert problem["error"].endswith(f"there are: {', '.join(Languages().names())}")


BAD_IDS = {
    "empty": "",
    "blank": " ",
    "dash first": "-a",
    "dot first": ".a",
    "underscore first": "_a",
    "colon first": ":a",
    "parent": "..",
    "slash": "a/b",
    "backslash": "a\\b",
    "blank inside": "a b",
    "newline behind": "a\n",
    "NUL": "a\0",
    "percent": "a%2Fb",
    "umlaut": "ä",
    "arabic digit": "١",
    "full-width letter": "ａ",
    "emoji": "💥",
    "129 characters": "a" * 129,
    "a megabyte": "a" * 1_000_000,
    "lone surrogate": "\ud800",
}


@pytest.mark.parametrize("session_id", BAD_IDS.values(), ids=BAD_IDS.keys())
async def test_a_bad_id_is_refused_and_the_rule_is_told(api, s, session_id):
    problem = await refused(api, *CREATE, with_field(CREATE, "session_id", session_id))
    assert fields_of(problem) == ["session_id"]
    assert "1 to 128 letters, digits" in problem["error"]
    assert len(problem["error"]) < 500


@pytest.mark.parametrize("session_id", ["a", "7", "a" * 128, "user:42:chat.v1_x-y", "A..", "a:"])
async def test_an_id_within_the_rule_is_taken_and_can_be_read_back(api, empty, session_id):
    assert (await api.create(session_id, persistent=False))["id"] == session_id
    assert (await api.session(session_id))["id"] == session_id


# ---- times

BAD_TIMEOUTS = {
    "0": "0",
    "-0.0": "-0.0",
    "-1": "-1",
    "-1e-9": "-1e-09",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e999": "Infinity",
    "true": "true",
    "false": "false",
    '"30"': '"30"',
    '"30s"': '"30s"',
    '""': '""',
    '"never"': '"never"',
    "3600.001": "3600.001",
    "3601": "3601",
    "1e30": "1e+30",
}
TIMES = [
    pytest.param(CREATE, "default_timeout", id="create"),
    pytest.param(PATCH, "default_timeout", id="patch"),
    pytest.param(RUN, "timeout", id="run"),
]


@pytest.mark.parametrize(("route", "name"), TIMES)
@pytest.mark.parametrize("given", BAD_TIMEOUTS)
async def test_a_bad_timeout_is_refused_naming_field_value_and_range(api, s, route, name, given):
    body = with_field(route, name, "@").replace('"@"', given)
    problem = await refused(api, *route, body)
    assert fields_of(problem) == [name]
    assert problem["error"].startswith(f"{name}: ")
    assert f"(given: {BAD_TIMEOUTS[given]})" in problem["error"]
    assert "greater than 0 and at most 3600" in problem["error"]


@pytest.mark.parametrize(("route", "name"), TIMES)
@pytest.mark.parametrize("given", [[30], {"seconds": 30}, HUGE, -HUGE], ids=["[]", "{}", "+", "-"])
async def test_a_timeout_that_is_no_float_at_all_is_refused(api, s, route, name, given):
    problem = await refused(api, *route, with_field(route, name, given))
    assert fields_of(problem) == [name]
    assert "greater than 0 and at most 3600" in problem["error"]


@pytest.mark.parametrize(("route", "name"), TIMES)
@pytest.mark.parametrize("given", [3600, 3600.0, 0.5, 1])
async def test_a_timeout_within_the_range_is_taken(api, s, route, name, given):
    answer = await raw(api, *route, with_field(route, name, given))
    assert answer.status_code in (200, 201)


async def test_the_range_that_is_told_is_that_of_the_configuration(make_settings):
    async with limited(make_settings, max_timeout=45, default_timeout=5) as api:
        problem = await refused(api, *CREATE, with_field(CREATE, "default_timeout", 46))
        assert "at most 45" in problem["error"]


BAD_SLEEPS = ["0", "-1", "NaN", "Infinity", "1e999", "true", '""', '"0s"', '"0"', '"30"', '"-5m"',
              '"5 m"', '"5x"', '"Never"', '"1h30m"', '"inf"', "[5]", "{}", f"{HUGE}"]  # fmt: skip


@pytest.mark.parametrize("route", [pytest.param(CREATE, id="create"), pytest.param(PATCH, id="pa")])
@pytest.mark.parametrize("given", BAD_SLEEPS, ids=lambda given: given[:12])
async def test_a_bad_sleep_after_is_refused_and_the_forms_are_told(api, s, route, given):
    body = with_field(route, "sleep_after", "@").replace('"@"', given)
    problem = await refused(api, *route, body)
    assert fields_of(problem) == ["sleep_after"]
    assert '"5m"' in problem["error"]
    assert '"never"' in problem["error"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [(7, 7), (0.5, 0.5), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("2d", 172800),
     ("never", "never")],
)  # fmt: skip
async def test_a_sleep_after_is_taken_in_seconds_as_a_duration_or_never(api, s, given, shown):
    answer = await raw(api, *PATCH, with_field(PATCH, "sleep_after", given))
    assert answer.json()["session"]["sleep_after"] == shown


# ---- environment, data, code

BAD_ENV = {
    "digit first": {"1A": "x"},
    "empty name": {"": "x"},
    "equals sign": {"A=B": "x"},
    "blank": {"A B": "x"},
    "umlaut": {"Ä": "x"},
    "NUL in name": {"A\0": "x"},
    "NUL in value": {"A": "x\0y"},
    "surrogate in name": {"\ud800": "x"},
    "surrogate in value": {"A": "\ud800"},
    "ours": {"ERA_SESSION": "x"},
    "would be ours": {"ERA_ANYTHING": "x"},
}
BAD_ENV_TYPES: dict[str, Any] = {
    "number": {"A": 1},
    "null": {"A": None},
    "list": {"A": ["x"]},
    "text": "A=x",
    "pairs": [["A", "x"]],
}


@pytest.mark.parametrize("route", [pytest.param(CREATE, id="create"), pytest.param(RUN, id="run")])
@pytest.mark.parametrize("env", BAD_ENV.values(), ids=BAD_ENV.keys())
async def test_a_bad_environment_is_refused_and_its_values_are_not_told(api, s, route, env):
    problem = await refused(api, *route, with_field(route, "env", env))
    assert fields_of(problem) == ["env"]
    assert repr(next(iter(env))) in problem["error"]
    assert "x" not in problem["error"].replace(repr(next(iter(env))), "").replace("\\x", "")


@pytest.mark.parametrize("route", [pytest.param(CREATE, id="create"), pytest.param(RUN, id="run")])
@pytest.mark.parametrize("env", BAD_ENV_TYPES.values(), ids=BAD_ENV_TYPES.keys())
async def test_an_environment_that_is_no_object_of_strings_is_refused(api, s, route, env):
    problem = await refused(api, *route, with_field(route, "env", env))
    assert fields_of(problem)[0].split(".")[0] == "env"


@pytest.mark.parametrize("route", [pytest.param(CREATE, id="create"), pytest.param(PATCH, id="pa")])
@pytest.mark.parametrize("name", ["data", "metadata"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "[[NaN]]"])
async def test_data_that_json_cannot_hold_is_refused(api, s, route, name, value):
    body = with_field(route, name, {"a": {"b": "@"}}).replace('"@"', value)
    problem = await refused(api, *route, body)
    assert fields_of(problem) == [name]
    assert "NaN or an infinity" in problem["error"]


@pytest.mark.parametrize("route", [pytest.param(CREATE, id="create"), pytest.param(PATCH, id="pa")])
@pytest.mark.parametrize("name", ["data", "metadata"])
@pytest.mark.parametrize("depth", [150, 250, 260, 300, 450, 900])
async def test_nested_data_is_either_kept_as_given_or_refused(api, s, route, name, depth):
    value = json.loads("[" * depth + "]" * depth)
    before = await everything(api)
    answer = await raw(api, *route, with_field(route, name, {"a": value}))
    if answer.status_code == 400:
        assert fields_of(problem_of(answer, 400, "invalid_request")) == [name]
        assert await everything(api) == before
    else:
        assert answer.status_code in (200, 201), answer.text
        session_id = "new" if route is CREATE else "s"
        assert (await api.session(session_id))[name] == {"a": value}
        await everything(api)


@pytest.mark.parametrize("name", ["data", "metadata"])
async def test_lone_surrogates_in_data_come_back_as_they_were(api, s, name):
    value = {"a": "\ud800", "b": ["x\ud83d"]}
    answer = await raw(api, *PATCH, with_field(PATCH, name, value))
    assert answer.status_code == 200, answer.text
    assert (await api.session())[name] == value
    assert (await everything(api))[0]["sessions"][0][name] == value


BAD_CODE = {
    "empty": "",
    "blanks": " \t ",
    "newlines": "\n\n",
    "NUL": "print(1)\0",
    "lone surrogate": "print('\ud800')",
    "half of a pair": "'\udc00\ud83d'",
}


@pytest.mark.parametrize("code", BAD_CODE.values(), ids=BAD_CODE.keys())
async def test_code_that_cannot_run_is_refused_and_is_no_run(api, s, code):
    problem = await refused(api, *RUN, with_field(RUN, "code", code))
    assert fields_of(problem) == ["code"]
    assert (await api.session())["run_count"] == 0


async def test_stdin_with_a_lone_surrogate_is_refused(api, s):
    problem = await refused(api, *RUN, with_field(RUN, "stdin", "\ud800"))
    assert fields_of(problem) == ["stdin"]


async def test_a_message_about_a_huge_value_stays_short(api, s):
    body = with_field(RUN, "timeout", "x" * 1_000_000)
    assert len((await refused(api, *RUN, body))["error"]) < 500


# ---- sessions, paths, methods


async def test_a_taken_id_is_409_and_the_session_stays_as_it_is(api, s):
    body = {**VALID[CREATE], "session_id": "s", "data": {"other": 1}}
    problem = await refused(api, *CREATE, json.dumps(body), status=409, code="session_exists")
    assert "'s'" in problem["error"]


async def test_of_ten_who_want_the_same_id_at_once_one_gets_it(api, empty):
    body = json.dumps({**VALID[CREATE], "session_id": "wanted"})
    answers = await asyncio.gather(*(raw(api, *CREATE, body) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    assert (await everything(api))[0]["count"] == 1


OF_A_SESSION = [
    ("GET", "", None),
    ("PATCH", "", {"default_timeout": 5}),
    ("DELETE", "", None),
    ("POST", "/run", {"code": "1"}),
    ("GET", "/runs", None),
    ("GET", "/runs/run_1", None),
    ("POST", "/interrupt", None),
    ("POST", "/restart", None),
    ("POST", "/sleep", None),
    ("POST", "/wake", None),
]


@pytest.mark.parametrize(("method", "path", "body"), OF_A_SESSION)
@pytest.mark.parametrize("session_id", ["nobody", "S", "s%00", "s%2F..%2Fs", "%2e%2e", "s%20"])
async def test_an_unknown_session_is_404_everywhere(api, s, method, path, body, session_id):
    content = b"" if body is None else json.dumps(body)
    path = f"/api/sessions/{session_id}{path}"
    await refused(api, method, path, content, status=404, code="session_not_found")


async def test_an_unknown_run_is_404_and_named(api, s):
    problem = await refused(
        api, "GET", "/api/sessions/s/runs/run_1", b"", status=404, code="run_not_found"
    )
    assert "'run_1'" in problem["error"]


async def test_a_run_of_another_session_is_404(api, s):
    run = await api.run("1")
    await api.create("other", persistent=False)
    path = f"/api/sessions/other/runs/{run['run_id']}"
    await refused(api, "GET", path, b"", status=404, code="run_not_found")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/session", "/api/sessions/", "/api/sessions//run",
     "/api/sessions/s/", "/api/sessions/s/ruin", "/api/sessions/s/run/1",
     "/api/sessions/s/runs/1/2", "/healthy", "/API/sessions", "/health/live/"],
)  # fmt: skip
async def test_an_unknown_path_is_404(api, s, method, path):
    await refused(api, method, path, "{}", status=404, code="not_found")


@pytest.mark.parametrize("path", ["/api/sessions/%ff", "/api/sessions/s/runs/%ff"])
async def test_a_path_that_is_no_utf8_is_400(api, s, path):
    await refused(api, "GET", path, b"")


WRONG_METHODS = [
    ("PUT", "/api/sessions", {"GET", "POST", "DELETE"}),
    ("PATCH", "/api/sessions", {"GET", "POST", "DELETE"}),
    ("POST", "/api/sessions/s", {"GET", "PATCH", "DELETE"}),
    ("PUT", "/api/sessions/s", {"GET", "PATCH", "DELETE"}),
    ("GET", "/api/sessions/s/run", {"POST"}),
    ("DELETE", "/api/sessions/s/run", {"POST"}),
    ("POST", "/api/sessions/s/runs", {"GET"}),
    ("GET", "/api/sessions/s/interrupt", {"POST"}),
    ("GET", "/api/sessions/s/restart", {"POST"}),
    ("GET", "/api/sessions/s/sleep", {"POST"}),
    ("GET", "/api/sessions/s/wake", {"POST"}),
    ("POST", "/health/live", {"GET"}),
    ("DELETE", "/health/ready", {"GET"}),
    ("BREW", "/api/sessions/s", {"GET", "PATCH", "DELETE"}),
    ("TRACE", "/api/sessions/s", {"GET", "PATCH", "DELETE"}),
]


@pytest.mark.parametrize(("method", "path", "allowed"), WRONG_METHODS)
async def test_a_wrong_method_is_405_and_the_right_ones_are_told(api, s, method, path, allowed):
    before = await everything(api)
    answer = await raw(api, method, path, "{}")
    problem_of(answer, 405, "method_not_allowed")
    assert allowed <= set(answer.headers["Allow"].split(", "))
    assert method not in answer.headers["Allow"]
    assert await everything(api) == before


# ---- query parameters


@pytest.mark.parametrize("name", ["limt", "Limit", "offset", "metadata", "session_id"])
async def test_an_unknown_query_parameter_is_named(api, s, name):
    problem = await refused(api, "GET", f"/api/sessions?{name}=1", b"")
    assert fields_of(problem) == [name]


@pytest.mark.parametrize(
    "limit", ["0", "-1", "1001", "abc", "1.5", "1e2", "%EF%BC%91", "9" * 5000, "0x10", "+"]
)
async def test_a_bad_limit_is_refused_and_the_range_is_told(api, s, limit):
    problem = await refused(api, "GET", f"/api/sessions?limit={limit}", b"")
    assert fields_of(problem) == ["limit"]
    assert "from 1 to 1000" in problem["error"]
    assert len(problem["error"]) < 500


@pytest.mark.parametrize("cursor", ["nobody", "%00", "s%20s", "1"])
async def test_a_cursor_that_is_no_session_is_refused(api, s, cursor):
    problem = await refused(api, "GET", f"/api/sessions?cursor={cursor}", b"")
    assert fields_of(problem) == ["cursor"]


@pytest.mark.parametrize("state", ["asleep", "Idle", "idle,running"])
async def test_an_unknown_state_is_refused_rather_than_matching_nothing(api, s, state):
    problem = await refused(api, "GET", f"/api/sessions?state={state}", b"")
    assert fields_of(problem) == ["state"]
    assert "sleeping" in problem["error"]


@pytest.mark.parametrize("query", ["limit=%ff", "metadata.a=%ff", "cursor=%ff"])
async def test_a_query_that_is_no_utf8_is_400(api, s, query):
    await refused(api, "GET", f"/api/sessions?{query}", b"")


# ---- whatever else


ODD = ["null", "true", "0", "-1", "1e999", "NaN", '""', '"x"', '"\\ud800"', '"\\u0000"', "[]",
       "{}", '["x"]', '{"": null}', '{"x": NaN}', "[" * 300 + "]" * 300, "9" * 500, '"5m"',
       '"never"', '"restart"', '{"A": "b"}', '{"ERA_X": "1"}']  # fmt: skip
NAMES = ["language", "session_id", "persistent", "default_timeout", "sleep_after", "on_timeout",
         "snapshots",
         "env", "data", "metadata", "allowInternetAccess", "allowPublicAccess", "timeout", "stdin",
         "if_busy", "x", "\\ud800", "\\u0000", "code"]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
async def test_no_object_whatever_is_in_it_is_answered_with_a_500(api, s, seed):
    chance = random.Random(seed)
    for _ in range(150):
        method, path = chance.choice([CREATE, PATCH, RUN])
        fields = {f'"{chance.choice(NAMES)}": {chance.choice(ODD)}' for _ in range(3)}
        # Last wins: no kernel is to be started for this.
        always = {CREATE: '"persistent": 1', RUN: '"code": ""'}.get((method, path), '"x": 1')
        body = "{" + ", ".join([*sorted(fields), always]) + "}"
        answer = await raw(api, method, path, body)
        problem_of(answer, 400, "invalid_request")


@pytest.mark.parametrize("name", ["data", "metadata"])
@pytest.mark.parametrize("route", [pytest.param(CREATE, id="create"), pytest.param(PATCH, id="pa")])
async def test_more_data_than_its_file_may_hold_is_refused(api, s, route, name):
    problem = await refused(api, *route, with_field(route, name, {"a": "x" * 1024 * 1024}))
    assert fields_of(problem) == [name]
    assert "larger than 1048576 bytes" in problem["error"]

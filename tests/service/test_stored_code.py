"""Code that is stored in a session: put, got, and run where a request has none."""

from tests.support.problems import everything, fields_of, problem_of, raw
from tests.support.sse import events_of, text_of

CODE = "/api/sessions/s/code"
RUN = "/api/sessions/s/run"
WITHOUT_CODE = ("{}", '{"code": null}', "")


def invalid(answer):
    return problem_of(answer, 400, "invalid_request")


async def test_a_run_without_code_runs_what_is_stored_in_whatever_way_it_is_left_out(api):
    await api.create()
    problem_of(await api.http.get(CODE), 404, "no_stored_code")
    for body in WITHOUT_CODE:
        assert fields_of(invalid(await raw(api, "POST", RUN, body))) == ["code"]
    assert (await api.session())["run_count"] == 0

    put = await api.send("PUT", CODE, {"code": "print('one')", "description": "the first"})
    assert (put.status, put.json["success"], put.json["code_length"]) == (200, True, 12)
    for body in WITHOUT_CODE:
        assert (await raw(api, "POST", RUN, body)).json()["stdout"] == "one\n"
    async with api.http.stream("POST", "/api/sessions/s/stream", json={}) as streamed:
        assert text_of([event async for event in events_of(streamed)]) == "one\n"
    assert (await api.run("print('another')"))["stdout"] == "another\n"

    assert (await api.send("GET", CODE)).json == {
        "code": "print('one')",
        "description": "the first",
        "updated_at": put.json["updated_at"],
        "code_length": 12,
    }
    history = (await api.send("GET", "/api/sessions/s/runs")).json["runs"]
    assert [run["code"] for run in history] == ["print('another')", *["print('one')"] * 4]


async def test_a_repeated_request_without_code_runs_nothing_though_other_code_is_stored(api):
    await api.create()
    key = {"Idempotency-Key": "k"}
    await api.send("PUT", CODE, {"code": "print('one')"})
    first = await api.send("POST", RUN, {}, headers=key)
    await api.send("PUT", CODE, {"code": "print('two')"})
    assert (await api.send("POST", RUN, {}, headers=key)).json["run_id"] == first.json["run_id"]
    assert (await api.send("POST", RUN, {})).json["stdout"] == "two\n"


async def test_new_code_keeps_the_description_unless_it_has_one_and_goes_with_its_session(api):
    await api.create(persistent=False)
    await api.send("PUT", CODE, {"code": "1", "description": "the first"})
    await api.send("PUT", CODE, {"code": "'\U0001f600'"})
    kept = (await api.send("GET", CODE)).json
    # ERA's clients count as JavaScript does.
    assert (kept["description"], kept["code_length"]) == ("the first", 4)
    await api.send("PUT", CODE, {"code": "3", "description": "the third"})
    assert (await api.send("GET", CODE)).json["description"] == "the third"

    await api.send("DELETE", "/api/sessions/s")
    problem_of(await api.http.get(CODE), 404, "session_not_found")
    await api.create(persistent=False)
    problem_of(await api.http.get(CODE), 404, "no_stored_code")


async def test_code_that_cannot_be_stored_is_refused_by_its_field_and_changes_nothing(api):
    await api.create(persistent=False)
    before = await everything(api)
    refused = {
        "{}": "code",
        '{"code": null}': "code",
        '{"code": ""}': "code",
        '{"code": " \\n"}': "code",
        '{"code": 1}': "code",
        '{"code": "a\\u0000"}': "code",
        '{"code": "\\ud800"}': "code",
        '{"code": "1", "description": 5}': "description",
        '{"code": "1", "describe": "x"}': "describe",
        '{"code": "%s"}' % ("x" * (1024 * 1024 + 1)): "code",
        "": "body",
    }
    for body, field in refused.items():
        assert fields_of(invalid(await raw(api, "PUT", CODE, body))) == [field], body[:40]
    problem_of(await api.http.get(CODE), 404, "no_stored_code")
    assert await everything(api) == before
    problem_of(
        await raw(api, "PUT", CODE.replace("/s/", "/t/"), '{"code": "1"}'),
        404,
        "session_not_found",
    )

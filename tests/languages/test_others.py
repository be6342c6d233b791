"""Installed kernels, kernels that wait, and what the API says of languages."""

import pytest

from tests.languages.conftest import STOCK
from tests.support.problems import fields_of
from tests.support.waiting import eventually


async def test_an_installed_kernel_is_a_language_by_its_name(languages):
    run = await languages.run("import sys; x = 41; print('said'); x + 1", STOCK)
    assert (run["stdout"], run["text"], run["exit_code"]) == ("said\n", "42", 0)
    run = await languages.run("1 / 0", STOCK)
    assert (run["exit_code"], run["error"]["ename"]) == (1, "ZeroDivisionError")
    run = await languages.run("input('? ')", STOCK, stdin="typed\n")
    assert run["text"] == "'typed'"
    run = await languages.run(
        "import time; time.sleep(60)", STOCK, timeout=0.3, on_timeout="interrupt"
    )
    assert (run["exit_code"], run["memory"]) == (124, "kept")
    assert (await languages.run("x", STOCK))["text"] == "41"
    run = await languages.run("import os; os._exit(4)", STOCK)
    assert (run["exit_code"], run["memory"]) == (4, "lost")


async def test_what_a_language_cannot_do_is_refused_by_the_field_that_asks_for_it(languages):
    await languages.run("1", STOCK)
    body = {"code": "1", "env": {"A": "1"}}
    answer = await languages.send("POST", f"/api/sessions/{STOCK}/run", body)
    assert (answer.status, fields_of(answer.json)) == (400, ["env"])
    body = {"language": STOCK, "env": {"A": "1"}}
    answer = await languages.send("POST", "/api/sessions", body)
    assert (answer.status, fields_of(answer.json)) == (400, ["env"])


async def test_an_unknown_language_is_refused_with_those_there_are(languages):
    answer = await languages.send("POST", "/api/sessions", {"language": "cobol"})
    assert (answer.status, fields_of(answer.json)) == (400, ["language"])
    for name in ("python", "typescript", "node", "deno", "bash", STOCK):
        assert name in answer.json["error"]


async def test_the_list_says_what_each_language_can_do(languages):
    answer = await languages.send("GET", "/api/languages")
    by_name = {language["name"]: language for language in answer.json["languages"]}
    assert answer.json["count"] == len(by_name)
    assert list(by_name)[:7] == [
        *("python", "javascript", "node", "typescript", "deno", "bash", "go"),
    ]
    assert by_name["typescript"]["aliases"] == ["ts"]
    assert by_name["deno"]["version"].startswith("2.")
    assert by_name["bash"]["supports"] == {
        "memory": True,
        "env": True,
        "stdin": True,
        "exit_codes": True,
        "interrupt": "always",
        "displays": False,
    }
    assert by_name["typescript"]["supports"]["interrupt"] == "running"
    assert by_name["go"]["supports"]["memory"] is False
    assert by_name["go"]["available"] is (by_name["go"]["install"] is None)
    assert by_name[STOCK]["supports"]["env"] is False


@pytest.mark.parametrize(
    ("alias", "name"),
    [("TS", "typescript"), ("js", "javascript"), ("nodejs", "node"), ("sh", "bash")],
)
async def test_an_alias_is_the_language(languages, alias, name):
    answer = await languages.send("POST", "/api/sessions", {"language": alias})
    assert (answer.status, answer.json["language"]) == (201, name)
    await languages.send("DELETE", f"/api/sessions/{answer.json['id']}")


async def test_kernels_of_other_languages_wait_once_they_are_asked_for(languages):
    async def count(name):
        text = (await languages.http.get("/metrics")).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    async def one_waits():
        return await count("kernelsvc_pool_members") > 0

    await languages.run("x=1", "bash")
    await eventually(one_waits, seconds=30)
    claimed = 'kernelsvc_kernel_start_seconds_count{how="claimed"}'
    before = await count(claimed)
    body = {"language": "bash", "session_id": "mine"}
    assert (await languages.send("POST", "/api/sessions", body)).status == 201
    path = "/api/sessions/mine/run"
    answer = await languages.send("POST", path, {"code": "pwd; echo found > f; echo [$x]"})
    assert answer.json["stdout"] == "/workspace\n[]\n"
    await languages.send("POST", "/api/sessions/mine/sleep")
    answer = await languages.send("POST", path, {"code": "cat f"})
    assert (answer.json["stdout"], answer.json["memory"]) == ("found\n", "lost")
    assert await count(claimed) > before

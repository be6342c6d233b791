"""Installed kernels, kernels that wait, and what the API says of languages."""

import pytest

from kernelsvc.kernels import languages as known
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
    answer = await languages.send("PATCH", f"/api/sessions/{STOCK}", {"snapshots": True})
    assert (answer.status, fields_of(answer.json)) == (400, ["snapshots"])
    for asked in ({"env": {"A": "1"}}, {"snapshots": True}):
        answer = await languages.send("POST", "/api/sessions", {"language": STOCK, **asked})
        assert (answer.status, fields_of(answer.json)) == (400, [*asked])


async def test_an_unknown_language_is_refused_with_those_there_are(languages):
    answer = await languages.send("POST", "/api/sessions", {"language": "cobol"})
    assert (answer.status, fields_of(answer.json)) == (400, ["language"])
    for name in ("python", "typescript", "node", "deno", "bash", STOCK):
        assert name in answer.json["error"]


async def test_what_is_not_installed_is_refused_with_how_to_install_it(api, monkeypatch):
    monkeypatch.setattr(known, "PROGRAMS", ())
    answer = await api.send("POST", "/api/sessions", {"language": "ts"})
    assert (answer.status, fields_of(answer.json)) == (400, ["language"])
    assert "pip install 'kernelsvc[languages]'" in answer.json["error"]
    assert "there are: python" in answer.json["error"]
    answer = await api.send("GET", "/api/languages")
    by_name = {language["name"]: language for language in answer.json["languages"]}
    assert by_name["typescript"]["available"] is False
    assert by_name["go"]["install"] == "apt-get install golang-go"
    assert by_name["python"]["install"] is None


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
        "sleep": False,
        "snapshots": False,
    }
    assert by_name["python"]["supports"]["sleep"] is True
    assert by_name["python"]["supports"]["snapshots"] is True
    assert by_name["typescript"]["supports"]["interrupt"] == "running"
    assert by_name["go"]["supports"]["memory"] is False
    assert by_name["go"]["available"] is (by_name["go"]["install"] is None)
    assert by_name[STOCK]["supports"]["env"] is False


@pytest.mark.parametrize(
    ("alias", "name"),
    [("TS", "typescript"), ("js", "node"), ("nodejs", "node"), ("sh", "bash")],
)
async def test_an_alias_is_the_language(languages, alias, name):
    answer = await languages.send("POST", "/api/sessions", {"language": alias})
    assert (answer.status, answer.json["language"]) == (201, name)
    await languages.send("DELETE", f"/api/sessions/{answer.json['id']}")


async def test_kernels_of_other_languages_wait_once_they_are_asked_for(languages):
    async def claimed():
        wanted = 'kernelsvc_kernel_start_seconds_count{how="claimed"}'
        lines = (await languages.http.get("/metrics")).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))

    before = await claimed()

    async def wakes_with_one_that_waited():
        await languages.send("POST", "/api/sessions/bash/sleep")
        run = await languages.run("cat f; pwd; echo [$x]; x=1", "bash")
        assert (run["stdout"], run["memory"]) == ("found\n/workspace\n[]\n", "lost")
        return await claimed() > before

    await languages.run("cd; echo found > f; x=1", "bash")
    await eventually(wakes_with_one_that_waited, seconds=30)


async def test_a_kernel_that_looks_for_packages_as_it_starts_finds_them(languages):
    async def waits():
        lines = (await languages.http.get("/metrics")).text.splitlines()
        told = next(line for line in lines if line.startswith("kernelsvc_pool_members "))
        return float(told.split()[-1]) >= 1

    module = "export default (name) => `hello ${name}`;"
    about = '{"name": "greet", "version": "1.0.0", "type": "module", "main": "index.js"}'
    wanted = '{"dependencies": {"greet": "*"}}'
    await languages.run("1", "typescript")
    await languages.send("POST", "/api/sessions/typescript/sleep")
    at = "/api/sessions/typescript/files"
    for path, content in (
        ("node_modules/greet/index.js", module),
        ("node_modules/greet/package.json", about),
        ("package.json", wanted),
    ):
        assert (await languages.http.put(f"{at}/{path}", content=content)).is_success
    # One that waits has started in an empty directory.
    await eventually(waits, seconds=30)
    run = await languages.run("import greet from 'greet'; greet('you')", "typescript")
    assert (run["exit_code"], run["text"]) == (0, '"hello you"'), run["stderr"]
    assert (await languages.http.delete(f"{at}/package.json")).is_success

"""What holds for a run holds for runs in each language."""

import asyncio
from dataclasses import dataclass

import pytest

from tests.support.sse import events_of


@dataclass(frozen=True)
class Words:
    """How a language says what the tests ask of it."""

    language: str
    prints_variables: str
    sets: str
    gets: str
    exits_with_3: str
    loops: str
    reads_shadow: str
    connects: str
    counts_up: str
    prints_and_goes_on: str


SCRIPT = {
    "prints_variables": "console.log(process.env.NAME ?? '', process.env.ERA_LANGUAGE)",
    "sets": "const x = 41; console.error('said')",
    "gets": "console.log(x + 1)",
    "exits_with_3": "try { console.log('so far') } finally { process.exit(3) }",
    "loops": "while (true) {}",
    "reads_shadow": "require('fs').readFileSync('/etc/shadow')",
    "connects": "await Deno.connect({ hostname: '1.1.1.1', port: 80 })",
    "counts_up": (
        "const fs = require('fs')\n"
        "const data = JSON.parse(fs.readFileSync('.session_data.json', 'utf8'))\n"
        "fs.writeFileSync('.session_data.json', JSON.stringify({ n: (data.n ?? 0) + 1 }))\n"
    ),
    "prints_and_goes_on": "console.log('begun'); while (true) {}",
}
WORDS = [
    Words("typescript", **SCRIPT | {"sets": "const x: number = 41; console.error('said')"}),
    Words("node", **SCRIPT),
    Words(
        "bash",
        prints_variables='echo "$NAME" $ERA_LANGUAGE',
        sets="x=41; echo said >&2",
        gets="echo $((x + 1))",
        exits_with_3="echo so far; exit 3",
        loops="while :; do :; done",
        reads_shadow="cat /etc/shadow",
        connects="exec 3<>/dev/tcp/1.1.1.1/80",
        counts_up=(
            "read -r data < .session_data.json\n"
            'n=${data//[^0-9]/}; echo "{\\"n\\": $((n + 1))}" > .session_data.json\n'
        ),
        prints_and_goes_on="echo begun; sleep 60",
    ),
]
each_language = pytest.mark.parametrize("words", WORDS, ids=lambda words: words.language)


@each_language
async def test_what_one_run_sets_the_next_one_finds(languages, words):
    run = await languages.run(words.sets, words.language)
    assert (run["exit_code"], run["stdout"], run["stderr"]) == (0, "", "said\n")
    run = await languages.run(words.gets, words.language)
    assert (run["stdout"], run["memory"], run["language"]) == ("42\n", "kept", words.language)


@each_language
async def test_variables_are_there_for_their_run_and_gone_afterwards(languages, words):
    value = 'it\'s "$HOME" `id`\\n\u2028\n two'
    run = await languages.run(words.prints_variables, words.language, env={"NAME": value})
    assert run["stdout"] == f"{value} {words.language}\n"
    run = await languages.run(words.prints_variables, words.language, env={"__proto__": "1"})
    assert run["stdout"] == f" {words.language}\n"


@each_language
async def test_an_exit_code_ends_the_run_and_not_the_memory(languages, words):
    await languages.run(words.sets, words.language)
    run = await languages.run(words.exits_with_3, words.language)
    assert (run["exit_code"], run["stdout"], run["error"]) == (3, "so far\n", None)
    assert run["memory"] == "kept"
    assert (await languages.run(words.gets, words.language))["stdout"] == "42\n"


@each_language
async def test_an_interrupt_ends_the_run_with_130_and_keeps_the_memory(languages, words):
    await languages.run(words.sets, words.language)
    running = asyncio.create_task(languages.run(words.loops, words.language))
    await languages.until_running(words.language)
    await languages.send("POST", f"/api/sessions/{words.language}/interrupt")
    run = await running
    assert (run["exit_code"], run["status"], run["memory"]) == (130, "interrupted", "kept")
    assert (await languages.run(words.gets, words.language))["stdout"] == "42\n"


@each_language
async def test_a_timeout_ends_the_run_with_124_and_the_next_one_works(languages, words):
    language = words.language
    await languages.run(words.sets, language)
    run = await languages.run(words.loops, language, timeout=0.3, on_timeout="interrupt")
    assert (run["exit_code"], run["memory"]) == (124, "kept")
    assert (await languages.run(words.gets, language))["stdout"] == "42\n"
    run = await languages.run(words.loops, language, timeout=0.3)
    assert (run["exit_code"], run["timed_out"], run["memory"]) == (124, True, "lost")
    assert (await languages.run(words.gets, language))["stdout"] != "42\n"


@each_language
async def test_the_data_file_goes_there_and_back(languages, words):
    for _ in range(2):
        run = await languages.run(words.counts_up, words.language)
        assert run["exit_code"] == 0, run
    assert run["data"] == (await languages.session(words.language))["data"] == {"n": 2}


@each_language
async def test_the_sandbox_is_the_same(languages, words):
    run = await languages.run(words.reads_shadow, words.language)
    assert run["exit_code"] == 1
    assert "o such file" in run["stderr"]
    run = await languages.run(words.connects, words.language)
    assert run["exit_code"] == 1
    assert "unreachable" in run["stderr"].lower()


@each_language
async def test_output_is_streamed_as_it_is_printed(languages, words):
    await languages.run(words.sets, words.language)
    path = f"/api/sessions/{words.language}/stream"
    body = {"code": words.prints_and_goes_on, "timeout": 20}
    seen = []
    async with languages.http.stream("POST", path, json=body) as response:
        async for event in events_of(response):
            seen.append((event.name, event.data.get("content")))
            if seen == [("stdout", "begun\n")]:
                await languages.send("POST", f"/api/sessions/{words.language}/interrupt")
    assert seen[0] == ("stdout", "begun\n")
    assert (event.name, event.data["exit_code"]) == ("done", 130)

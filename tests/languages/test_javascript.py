"""TypeScript and JavaScript on Deno's kernel, as programs for Node and ERA's examples have them."""

import pytest


@pytest.fixture
def put(languages):
    async def put(path, content):
        await languages.run("0", "node")
        answer = await languages.http.put(f"/api/sessions/node/files/{path}", content=content)
        assert answer.status_code in (200, 201), answer.text

    return put


async def test_an_exception_is_told_with_its_place(languages):
    run = await languages.run("const f = () => {\n  throw new TypeError('bad')\n}\nf()", "node")
    assert run["exit_code"] == 1
    assert (run["error"]["ename"], run["error"]["evalue"]) == ("TypeError", "bad")
    assert "at f (<anonymous>:2:" in run["stderr"]
    run = await languages.run("throw 'text'", "node")
    assert (run["exit_code"], run["error"]["evalue"]) == (1, "text")


async def test_code_that_cannot_be_parsed_is_told_why_and_where(languages):
    run = await languages.run("const a = 1\nfoo(,)", "node")
    assert (run["exit_code"], run["error"]["ename"]) == (1, "SyntaxError")
    assert "foo(,)" in run["stderr"]
    assert "<anonymous>:2:5" in run["stderr"]


async def test_the_last_value_and_displays_are_outputs_without_colours(languages):
    run = await languages.run("({ a: 1, b: 'x' })", "typescript")
    assert run["text"] == '{ a: 1, b: "x" }'
    run = await languages.run(
        "console.log({ a: 'x' })\n"
        "await Deno.jupyter.display({ 'text/html': '<b>1</b>' }, { raw: true })\n"
        "Deno.jupyter.md`*two*`",
        "typescript",
    )
    assert run["stdout"] == '{ a: "x" }\n'
    assert [output["data"] for output in run["outputs"] if "data" in output] == [
        {"text/html": "<b>1</b>"},
        {"text/markdown": "*two*"},
    ]


async def test_a_name_can_be_declared_again(languages):
    for number in (1, 2):
        code = f"import fs from 'node:fs'; const n = {number}; class C {{}}; console.log(n)"
        run = await languages.run(code, "node")
        assert (run["exit_code"], run["stdout"]) == (0, f"{number}\n")


async def test_everything_that_writes_is_output_in_order(languages):
    run = await languages.run(
        "console.log(1); process.stdout.write('2\\n')\n"
        "Deno.stdout.writeSync(new TextEncoder().encode('3\\n')); console.log(4)\n"
        "process.stderr.write('error\\n')",
        "node",
    )
    assert (run["stdout"], run["stderr"]) == ("1\n2\n3\n4\n", "error\n")


async def test_modules_of_the_workspace_are_required_anew_in_each_run(languages, put):
    await put("utils/math.js", "module.exports = { add: (a, b) => a + b }")
    await put("index.js", "console.log(require('./utils/math').add(1, 2))")
    for _ in range(2):
        assert (await languages.run("require('./index.js')", "node"))["stdout"] == "3\n"
    await put("index.js", "console.log('changed')")
    assert (await languages.run("require('./index.js')", "node"))["stdout"] == "changed\n"


async def test_typescript_and_packages_of_the_workspace_are_found(languages, put):
    await put("node_modules/shout/package.json", '{"name": "shout", "main": "main.js"}')
    await put("node_modules/shout/main.js", "module.exports = (s) => s.toUpperCase()")
    await put("text.ts", "export const twice = (s: string): string => s + s")
    await put("index.ts", "import { twice } from './text'\nconsole.log(twice('ab'))")
    run = await languages.run("require('./index.ts'); console.log(require('shout')('x'))", "node")
    assert run["stdout"] == "abab\nX\n", run


async def test_what_nobody_waits_for_fails_the_run_and_not_the_kernel(languages):
    later = "await new Promise((resolve) => setTimeout(resolve, 50))"
    for code in (
        "setTimeout(() => { throw Error('late') }, 5)",
        "Promise.reject(Error('late'))",
    ):
        run = await languages.run(f"var kept = 7; {code}; {later}", "node")
        assert (run["exit_code"], run["memory"]) == (1, "kept")
        assert "Error: late" in run["stderr"]
    assert (await languages.run("kept", "node"))["text"] == "7"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("Deno.exit(4)", 4),
        ("process.exit()", 0),
        ("process.exitCode = 5", 5),
        ("process.exit(-1)", 255),
    ],
)
async def test_code_exits_as_programs_do(languages, code, exit_code):
    run = await languages.run(code, "deno")
    assert (run["exit_code"], run["error"], run["stderr"], run["memory"]) == (
        *(exit_code, None, ""),
        "kept",
    )


async def test_where_only_the_process_can_exit_the_code_is_right_and_the_memory_lost(languages):
    waits = "await new Promise((resolve) => setTimeout(resolve, 20000))"
    run = await languages.run(f"setTimeout(() => process.exit(6)); {waits}", "deno")
    assert (run["exit_code"], run["memory"]) == (6, "lost")


async def test_prompt_reads_the_input_of_the_run(languages):
    run = await languages.run("prompt('name?') + prompt('and?')", "node", stdin="one\ntwo\n")
    assert run["text"] == '"onetwo"'
    assert (await languages.run("prompt('name?')", "node"))["exit_code"] == 0


async def test_a_flood_is_cut_and_costs_no_memory(languages):
    run = await languages.run("for (let i = 0; i < 100000; i++) console.log('line', i)", "node")
    assert (run["exit_code"], run["truncated"]) == (0, True)
    assert run["stdout"].endswith("line 99999\n")
    assert run["usage"]["peak_memory_bytes"] < 500 << 20

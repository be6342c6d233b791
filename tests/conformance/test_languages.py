"""Languages: which there are, and what each holds of the contract."""

import pytest

from tests.conformance.client import problem_of

HELLO = {
    "python": "print('Hello', 2 + 2)",
    "node": "console.log('Hello', 2 + 2)",
    "javascript": "console.log('Hello', 2 + 2)",
    "typescript": "const sum: number = 2 + 2;\nconsole.log('Hello', sum)",
    "deno": "const sum: number = 2 + 2;\nconsole.log('Hello', sum)",
    "bash": "echo Hello $((2 + 2))",
    "go": 'package main\nimport "fmt"\nfunc main() { fmt.Println("Hello", 2+2) }',
}
READ = {
    "python": "import os; print(os.environ.get('API_KEY'), os.environ['ERA_LANGUAGE'])",
    "node": "console.log(process.env.API_KEY, process.env.ERA_LANGUAGE)",
    "javascript": "console.log(process.env.API_KEY, process.env.ERA_LANGUAGE)",
    "typescript": "const key: string | undefined = process.env.API_KEY;\n"
    "console.log(key, process.env.ERA_LANGUAGE)",
    "deno": "console.log(Deno.env.get('API_KEY'), Deno.env.get('ERA_LANGUAGE'))",
    "bash": "echo $API_KEY $ERA_LANGUAGE",
    "go": 'package main\nimport (\n"fmt"\n"os"\n)\n'
    'func main() { fmt.Println(os.Getenv("API_KEY"), os.Getenv("ERA_LANGUAGE")) }',
}
FAILS = {
    "python": "raise ValueError('bad')",
    "node": "throw new Error('bad')",
    "javascript": "throw new Error('bad')",
    "typescript": "throw new Error('bad')",
    "deno": "throw new Error('bad')",
    "bash": "echo bad >&2; exit 1",
    "go": 'package main\nimport ("fmt"; "os")\n'
    'func main() { fmt.Fprintln(os.Stderr, "bad"); os.Exit(1) }',
}
FOR_EVER = {
    "python": "while True: pass",
    "node": "while (true) {}",
    "javascript": "while (true) {}",
    "typescript": "while (true) {}",
    "deno": "while (true) {}",
    "bash": "while true; do :; done",
    "go": "package main\nfunc main() { for {} }",
}
COUNTING = {
    "node": ("let n = 0;\nconsole.log(n)", "n += 1;\nconsole.log(n)"),
    "javascript": ("let n = 0;\nconsole.log(n)", "n += 1;\nconsole.log(n)"),
    "typescript": ("let n: number = 0;\nconsole.log(n)", "n += 1;\nconsole.log(n)"),
    "deno": ("let n: number = 0;\nconsole.log(n)", "n += 1;\nconsole.log(n)"),
    "bash": ("n=0; echo $n", "n=$((n + 1)); echo $n"),
}
TYPED = ("typescript", "deno")
SCRIPTS = ("node", "typescript")


@pytest.fixture(scope="module")
def of_language(client):
    """A session of each language, made when it is first asked for."""
    made = {}

    def ask(language):
        if language not in made:
            made[language] = client.create(language=language)
        return made[language]

    yield ask
    for session in made.values():
        session.delete()


def available(client):
    languages = client.answer("GET", "/api/languages")["languages"]
    return [language["name"] for language in languages if language["available"]]


def test_the_list_names_each_language_that_sessions_may_have(client, make_session):
    names = available(client)
    assert {"python", "typescript", "javascript", "bash"} <= set(names)
    for name in names:
        assert make_session(language=name, persistent=False).created["language"] == name


@pytest.mark.parametrize("language", HELLO)
def test_code_runs_and_its_output_comes_back(of_language, language):
    session = of_language(language)
    run = session.run(HELLO[language], timeout=60)
    assert (run["exit_code"], run["stdout"]) == (0, "Hello 4\n")


@pytest.mark.parametrize("language", READ)
def test_variables_of_the_request_are_there_for_its_run_only(of_language, language):
    session = of_language(language)
    shown = session.created["language"]
    said = session.says(READ[language], env={"API_KEY": "secret"}, timeout=60)
    assert said == f"secret {shown}\n"
    assert "secret" not in session.says(READ[language], timeout=60)


@pytest.mark.parametrize("language", FAILS)
def test_code_that_fails_is_1_and_says_why_on_stderr(of_language, language):
    run = of_language(language).run(FAILS[language], timeout=60)
    assert run["exit_code"] == 1
    assert "bad" in run["stderr"]
    assert "\x1b" not in run["stderr"]


@pytest.mark.parametrize("language", COUNTING)
def test_variables_are_there_for_the_next_run(of_language, language):
    first, then = COUNTING[language]
    session = of_language(language)
    assert session.says(first) == "0\n"
    assert [session.says(then) for _ in range(2)] == ["1\n", "2\n"]


@pytest.mark.parametrize("language", FOR_EVER)
def test_a_timeout_is_enforced_and_the_next_run_works(of_language, language):
    session = of_language(language)
    # Go compiles first, and that counts.
    run = session.run(FOR_EVER[language], timeout=8 if language == "go" else 0.5)
    assert (run["exit_code"], run["timed_out"]) == (124, True)
    assert session.says(HELLO[language], timeout=60) == "Hello 4\n"


@pytest.mark.parametrize("language", SCRIPTS)
def test_data_is_read_and_left_as_in_python(of_language, language):
    session = of_language(language)
    session.patch(data={"counter": 1})
    run = session.run(
        "{ const fs = require('fs');\n"
        "const data = JSON.parse(fs.readFileSync('.session_data.json', 'utf8'));\n"
        "data.counter += 1;\n"
        "fs.writeFileSync('.session_data.json', JSON.stringify(data)); }"
    )
    assert (run["exit_code"], run["data"]) == (0, {"counter": 2})


@pytest.mark.parametrize("language", TYPED)
def test_types_are_taken(of_language, language):
    said = of_language(language).says(
        "interface User { name: string; age: number }\n"
        "const user: User = { name: 'Ada', age: 36 };\n"
        "console.log(`${user.name}, ${user.age}`);"
    )
    assert said == "Ada, 36\n"


def test_a_project_of_several_files_runs_in_node(of_language):
    session = of_language("node")
    session.put("utils/math.js", b"module.exports = { double: (x) => x * 2 };\n")
    session.put("index.js", b"const m = require('./utils/math');\nconsole.log(m.double(5));\n")
    assert session.says("require('./index.js')") == "10\n"


def test_a_project_of_several_files_runs_in_typescript(of_language):
    session = of_language("typescript")
    session.put(
        "utils/text.ts",
        b"export function cap(s: string) { return s[0].toUpperCase() + s.slice(1); }",
    )
    session.put("index.ts", b"import { cap } from './utils/text';\nconsole.log(cap('hello'));\n")
    assert session.says("require('./index.ts')") == "Hello\n"


def test_a_project_of_several_files_runs_in_deno(of_language):
    session = of_language("deno")
    session.put("utils/helpers.ts", b"export const double = (n: number): number => n * 2;\n")
    said = session.says("import { double } from './utils/helpers.ts';\nconsole.log(double(5));")
    assert said == "10\n"


def test_files_are_written_and_read_in_go(of_language):
    session = of_language("go")
    code = (
        'package main\nimport "os"\n'
        'func main() { os.WriteFile("data.txt", []byte("from Go"), 0644) }'
    )
    assert session.run(code, timeout=60)["exit_code"] == 0
    assert session.get("data.txt").content == b"from Go"


def test_a_line_of_bash_is_a_shells(of_language):
    session = of_language("bash")
    session.put("in.txt", b"b\na\n")
    assert session.says("sort < in.txt | tee out.txt; cd /tmp; cd -").startswith("a\nb\n")
    assert session.get("out.txt").content == b"a\nb\n"
    assert session.run("exit 7")["exit_code"] == 7


@pytest.mark.parametrize("alias", ["py", "js", "ts", "nodejs", "golang", "Python", "TypeScript"])
def test_languages_answer_to_the_names_that_clients_call_them(make_session, alias):
    assert make_session(language=alias, persistent=False).created["language"]


def test_an_unknown_language_is_refused_naming_those_in_the_list(client):
    problem = problem_of(
        client.send("POST", "/api/sessions", {"language": "cobol"}), 400, "invalid_request"
    )
    assert all(name in problem["error"] for name in available(client))

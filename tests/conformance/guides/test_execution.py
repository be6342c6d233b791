"""What ERA's quickstart and its guide to languages show of one-off executions."""

import pytest

ONCE = {
    "python": ("import math\nprint(f'Sqrt(16): {math.sqrt(16)}')", "Sqrt(16): 4.0\n"),
    "node": ("console.log('Sqrt(16):', Math.sqrt(16));", "Sqrt(16): 4\n"),
    "typescript": (
        "const r: number = Math.sqrt(16);\nconsole.log(`Sqrt(16): ${r}`);",
        "Sqrt(16): 4\n",
    ),
    "deno": ("const r: number = Math.sqrt(16);\nconsole.log(`Sqrt(16): ${r}`);", "Sqrt(16): 4\n"),
    "go": (
        'package main\nimport (\n\t"fmt"\n\t"math"\n)\n'
        'func main() { fmt.Println("Sqrt(16):", math.Sqrt(16)) }',
        "Sqrt(16): 4\n",
    ),
}


@pytest.mark.parametrize("language", ONCE)
def test_code_of_each_language_is_executed_once(client, language):
    code, said = ONCE[language]
    body = {"language": language, "code": code, "timeout": 60}
    run = client.answer("POST", "/api/execute", body)
    assert (run["exit_code"], run["stdout"], run["language"]) == (0, said, language)


@pytest.mark.parametrize(
    ("alias", "language"), [("py", "python"), ("js", "node"), ("ts", "typescript")]
)
def test_a_language_is_found_by_its_short_name(client, alias, language):
    code = "print(1)" if language == "python" else "console.log(1)"
    run = client.answer("POST", "/api/execute", {"language": alias, "code": code})
    assert (run["stdout"], run["language"]) == ("1\n", language)

"""The live bash: what a shell keeps, and how its code can end."""

import pytest

from tests.support.waiting import eventually


async def test_directory_functions_and_aliases_stay_also_where_code_has_exited(languages):
    await languages.run(
        "mkdir -p deep; cd deep; a=(1 'two words'); declare -A m=([k]=v); export E=exported\n"
        "f() { echo \"f $1\"; }; alias say='echo said'; shopt -s nullglob\n",
        "bash",
    )
    for end in ("exit 4", "set -e; false; true", "set -u; : $unset", "g() { exit 5; }; g"):
        run = await languages.run(end, "bash")
        assert run["exit_code"] != 0
        assert run["memory"] == "kept"
        run = await languages.run(
            'f 1; say it; pwd; echo "${a[1]} ${m[k]}"; printenv E; echo *.none; echo $-', "bash"
        )
        assert run["stdout"].splitlines()[:6] == [
            *("f 1", "said it", "/workspace/deep", "two words v", "exported", "")
        ]
        # What `set` has set was for its run.
        assert not {"e", "u"} & set(run["stdout"].splitlines()[6])
    await languages.run("cd ~", "bash")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("false", 1),
        ("false; true", 0),
        ("return 6; echo not reached", 6),
        ("no-such-command", 127),
        ("echo (", 2),
        ("set -o pipefail; false | true", 1),
        ("break; true", 0),
        ("kill $$; sleep 60", 143),
    ],
)
async def test_the_exit_code_is_that_of_the_last_command(languages, code, exit_code):
    run = await languages.run(code, "bash")
    assert (run["exit_code"], run["error"], run["memory"]) == (exit_code, None, "kept")


async def test_errors_name_the_line_of_the_code(languages):
    run = await languages.run("true\nno-such-command", "bash", env={"A": "1\n2"})
    assert "line 2: no-such-command: command not found" in run["stderr"]


async def test_what_is_to_be_done_at_the_exit_is_done_at_the_end_of_the_run(languages):
    run = await languages.run("trap 'echo bye' EXIT; echo hello", "bash")
    assert run["stdout"] == "hello\nbye\n"
    run = await languages.run("trap 'echo bye; exit 8' EXIT; exit 7", "bash")
    assert (run["stdout"], run["exit_code"]) == ("bye\n", 8)
    run = await languages.run("(trap 'echo of the subshell' EXIT); echo hello", "bash")
    assert run["stdout"] == "of the subshell\nhello\n"


async def test_redirections_hold_for_the_run_and_input_is_the_runs(languages):
    await languages.run("exec > log 2>&1; echo into the log", "bash")
    run = await languages.run("cat log; read -r line; echo got $line", "bash", stdin="a line\n")
    assert run["stdout"] == "into the log\ngot a line\n"
    assert (await languages.run("cat", "bash"))["stdout"] == ""


async def test_what_a_job_prints_afterwards_belongs_to_the_run_that_began_it(languages):
    run = await languages.run("(until [[ -e go ]]; do sleep 0.01; done; echo late) &", "bash")
    assert run["exit_code"] == 0
    other = await languages.run("touch go; echo other", "bash")
    assert other["stdout"] == "other\n"

    async def has_come():
        path = f"/api/sessions/bash/runs/{run['run_id']}"
        return (await languages.send("GET", path)).json["background"] == "late\n"

    await eventually(has_come)


async def test_an_interrupt_reaches_what_runs_in_the_foreground_and_a_trap_for_it(languages):
    run = await languages.run(
        "x=5; trap 'echo trapped; exit 9' INT; sleep 60",
        "bash",
        timeout=0.2,
        on_timeout="interrupt",
    )
    assert (run["exit_code"], run["stdout"], run["memory"]) == (124, "trapped\n", "kept")
    run = await languages.run("echo $x; sleep 60", "bash", timeout=0.2, on_timeout="interrupt")
    assert (run["stdout"], run["memory"]) == ("5\n", "kept")


@pytest.mark.parametrize(("code", "exit_code"), [("kill -9 $$", 137), ("exec sh -c 'exit 5'", 5)])
async def test_a_shell_that_is_gone_is_replaced_and_the_answer_says_so(languages, code, exit_code):
    run = await languages.run(f"echo so far; {code}", "bash")
    assert (run["exit_code"], run["stdout"], run["memory"]) == (exit_code, "so far\n", "lost")
    assert (await languages.run("echo alive", "bash"))["stdout"] == "alive\n"


async def test_a_flood_is_cut_and_costs_no_memory(languages):
    run = await languages.run("yes | head -c 20000000; echo done", "bash")
    assert (run["exit_code"], run["truncated"]) == (0, True)
    assert run["stdout"].endswith("y\ndone\n")
    assert run["usage"]["output_bytes"] == 20_000_005

"""A language whose runs are whole programs, as Go: here sh, which is installed everywhere."""

import asyncio
from pathlib import Path

import pytest

from kernelsvc.kernel_host.adapters.program import ProgramAdapter, Toolchain
from kernelsvc.kernel_host.adapters.running import INTERRUPTED, Asked, Ended
from tests.support.waiting import eventually


class Said(dict[str, str]):
    """What a program has put out, by stream."""

    async def say(self, kind, content):
        assert kind == "stream"
        self[content["name"]] = self.get(content["name"], "") + content["text"]


@pytest.fixture
def program(io_loop, tmp_path):
    """Runs source as programs: a copy is what is built, sh what runs it."""
    toolchain = Toolchain(
        {"name": "sh"},
        source="main.sh",
        build=("sh", "-c", "sh -n {source} && cp {source} {program}"),
        run=("sh", "{program}"),
    )

    async def make():
        return ProgramAdapter(toolchain, tmp_path)

    made = io_loop.run_sync(make)
    yield made
    io_loop.run_sync(made.close)


async def test_a_program_is_built_and_run_with_its_own_environment_and_input(program):
    said = Said()
    code = "read line; echo got $line $NAME; echo oops >&2; exit 3"
    ended = await program.execute(Asked(code, said.say, {"NAME": "given"}, "typed\n"))
    assert ended == Ended(3)
    assert said == {"stdout": "got typed given\n", "stderr": "oops\n"}
    ended = await program.execute(Asked("echo [$NAME]; cat", said.say))
    assert (ended, said["stdout"]) == (Ended(), "got typed given\n[]\n")


async def test_what_cannot_be_built_is_not_run(program):
    said = Said()
    ended = await program.execute(Asked("echo begun; (", said.say))
    assert ended.exit_code == 2
    assert "yntax error" in said["stderr"]
    assert "stdout" not in said


async def test_a_program_that_a_signal_kills_has_its_exit_code(program):
    assert await program.execute(Asked("kill -9 $$", Said().say)) == Ended(137)


async def test_an_interrupt_ends_the_program_and_what_it_waits_for(program, tmp_path):
    said = Said()
    running = asyncio.create_task(program.execute(Asked("echo $$; sleep 60", said.say)))
    await eventually(lambda: "stdout" in said)
    program.interrupt()
    assert await running == Ended(130, INTERRUPTED)
    assert not Path(f"/proc/{said['stdout'].strip()}").exists()


async def test_a_toolchain_that_is_not_there_is_told(io_loop, tmp_path):
    toolchain = Toolchain({}, "main", (), ("no-such-program", "{source}"))
    adapter, said = ProgramAdapter(toolchain, tmp_path), Said()
    assert await adapter.execute(Asked("code", said.say)) == Ended(127)
    assert said["stderr"] == "no-such-program: No such file or directory\n"
    await adapter.close()

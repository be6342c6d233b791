"""The zygote and the sandboxes that hosts are forked into."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernels.zygote import Zygote
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox import doctor
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.standing import StandingSandbox
from tests.support.named import named
from tests.support.waiting import eventually

ARGV = [sys.executable, "-m", "kernelsvc.kernel_host"]
PRIVILEGES = """
import json, subprocess
def privileges(status):
    state = dict(line.split(':\\t') for line in status.splitlines())
    names = ("NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return [int(state[name], 16) for name in names] + [state["Groups"].split()]
own = open('/proc/self/status').read()
program = subprocess.check_output(["cat", "/proc/self/status"], text=True)
print(json.dumps([privileges(own), privileges(program)]))
"""
CHROOT = 1 << 18


pytestmark = pytest.mark.usefixtures("own_zygotes")


@pytest.fixture
def the_zygote(zygotes):
    """Finds the zygote of the test's service."""

    def find():
        # What it forks is called like it for a moment.
        return next(each for each in named("kernel-zygote") if each != zygotes.process)

    return find


async def test_a_killed_zygote_is_replaced_and_its_kernels_live_on(api, the_zygote):
    await api.create("before")
    await api.run("x = 1", "before")
    zygote = the_zygote()
    zygote.kill()
    await api.create("after")
    assert (await api.run("'works'", "after"))["text"] == "'works'"
    assert the_zygote() != zygote
    run = await api.run("x + 1", "before")
    assert (run["text"], run["memory"]) == ("2", "kept")


async def test_copies_can_be_made_when_the_process_that_opens_annexes_was_killed(api, the_zygote):
    await api.create()
    await api.run("x = 1")
    (opener,) = named("annex-opener", the_zygote())
    opener.kill()
    await eventually(lambda: not opener.is_running())
    await api.send("POST", "/api/sessions/s/fork", {"session_ids": ["a"]})
    assert (await api.run("x", "a"))["text"] == "1"


async def test_a_kernel_may_change_its_root_directory_and_has_no_other_privilege_left(api):
    await api.create()
    own, program = json.loads((await api.run(PRIVILEGES))["stdout"])
    assert own[:-1] == [1, 2, 0, CHROOT, CHROOT, 0, 0]
    assert program[:-1] == [1, 2, 0, 0, 0, 0, 0]
    assert own[-1] == program[-1] == [] or os.getuid() != 0


async def test_hosts_that_have_ended_leave_no_process_behind(api, the_zygote):
    await api.create("kept")
    await api.run("1", "kept")
    zygote = the_zygote()
    before = set(named("kernel-host", zygote))
    await api.create("gone")
    await api.run("1", "gone")
    await api.send("DELETE", "/api/sessions/gone")
    await eventually(lambda: before >= set(named("kernel-host", zygote)))


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('cannot import')"], "cannot import"),
        ([sys.executable, "-c", "import time; time.sleep(600)"], "not ready in 0.5 s"),
        (["/no/such/program"], "No such file"),
    ],
)
def test_a_zygote_that_does_not_start_says_why(program, why):
    with pytest.raises(KernelStartFailed, match=why):
        Zygote.spawn(program, {}, patience=0.5 if "0.5" in why else 30)


def test_its_directory_goes_with_it_where_the_service_was_killed():
    zygote = Zygote.spawn(ARGV, {}, patience=30)
    directory = Path(zygote._directory.name)
    assert directory.is_dir()
    # All that a service does that is killed.
    zygote._orders.close()
    zygote._process.wait(10)
    assert not directory.exists()
    zygote.close()


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(prefix="ks") as directory:
        place = Place(Path(directory, "workspace"), Path(directory, "runtime"))
        place.workspace.mkdir()
        place.runtime.mkdir()
        yield place


@pytest.fixture
def enclosure(place):
    examination = doctor.examine(doctor.SandboxOptions(True, 1 << 20, 1 << 20, 60878))
    assert examination.holds, examination.findings
    isolation = examination.isolation
    enclosure = isolation.enclose(place, Limits())
    yield enclosure
    enclosure.started()
    enclosure.close()
    isolation.close()


def test_a_standing_sandbox_ends_with_process_1_and_is_gone_then(enclosure):
    sandbox = StandingSandbox.make(enclosure, subprocess.DEVNULL)
    inside = psutil.Process(sandbox.process.pid).children(recursive=True)
    assert "sh" in {process.name() for process in inside}
    sandbox.kill()
    sandbox.wait(30)
    sandbox.close()
    assert not any(process.is_running() for process in inside)


def test_a_sandbox_that_cannot_be_made_says_why(place, enclosure):
    place.workspace.rmdir()
    with tempfile.TemporaryFile() as said:
        with pytest.raises(ChildProcessError):
            StandingSandbox.make(enclosure, said.fileno())
        said.seek(0)
        assert str(place.workspace).encode() in said.read()

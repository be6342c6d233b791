"""The kernel host and the provisioner on it, without the service."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import AsyncKernelManager

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernel_host import wire
from kernelsvc.kernels.host import KernelHost
from kernelsvc.kernels.hosted import HostedKernel, Memory
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.provisioner import HostProvisioner
from kernelsvc.kernels.runtime import RuntimeDirectory
from kernelsvc.kernels.specs import PYTHON, KernelSpecs
from kernelsvc.models.event import Text
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.isolation import Isolation
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("io_loop")

ARGV = [sys.executable, "-m", "kernelsvc.kernel_host"]


def unsandboxed(directory):
    place = Place(Path(directory), Path(directory))
    return Isolation(None).enclose(place, Limits())


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def with_kernel(use):
    """Calls `use(host, manager)` with a kernel that jupyter_client's manager started on a host."""
    with tempfile.TemporaryDirectory(prefix="ks") as directory:
        host = await KernelHost.spawn(unsandboxed(directory), ARGV, {"PATH": os.environ["PATH"]})
        manager = AsyncKernelManager(
            kernel_name=PYTHON,
            kernel_spec_manager=KernelSpecs(),
            connection_file=f"{directory}/k.json",
            transport="ipc",
            ip=f"{directory}/k-ipc",
        )
        for port, channel in enumerate(("shell", "iopub", "stdin", "control", "hb"), start=1):
            setattr(manager, f"{channel}_port", port)
        environment = {"PATH": os.environ["PATH"], "HOME": directory, "IPYTHONDIR": directory}
        await manager.start_kernel(host=host, enclosure=unsandboxed(directory), env=environment)
        try:
            await use(host, manager)
        finally:
            await host.close()
            manager.cleanup_connection_file()
            await manager.cleanup_resources()


async def test_jupyter_clients_manager_drives_a_kernel_through_the_entry_point():
    async def use(host, manager):
        assert isinstance(manager.provisioner, HostProvisioner)
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        assert await manager.is_alive()
        reply = await client.execute("answer = 6 * 7", reply=True)
        assert reply["content"]["status"] == "ok"
        request = client.execute("import time; print('inside'); time.sleep(60)")
        kind, about = None, None
        while (kind, about) != ("stream", request):
            message = await client.get_iopub_msg()
            kind, about = message["msg_type"], message["parent_header"].get("msg_id")
        await manager.interrupt_kernel()
        reply = await client.get_shell_msg()
        while reply["parent_header"]["msg_id"] != request:
            reply = await client.get_shell_msg()
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        client.stop_channels()
        pid = manager.provisioner.kernel.pid
        await manager.shutdown_kernel(now=True)
        assert not alive(pid)
        assert await manager.provisioner.poll() == -signal.SIGKILL

    await with_kernel(use)


async def test_a_host_that_is_hung_up_on_leaves_nothing():
    async def use(host, manager):
        kernel = manager.provisioner.kernel
        await kernel.ready
        assert alive(kernel.pid)
        await host.close()
        assert host.closed.is_set()
        assert not alive(kernel.pid)
        assert kernel.exited.result() == wire_killed()

    def wire_killed():
        return -signal.SIGKILL

    await with_kernel(use)


async def test_a_host_tells_a_service_that_asks_what_has_become_of_kernels_and_ends_others():
    async def use(host, manager):
        kernel = manager.provisioner.kernel
        await asyncio.wait_for(kernel.ready, 30)
        # As one has them who was not there when it said so.
        there, gone = (HostedKernel(host, kernel.number + more) for more in (0, 1))
        host._kernels.update({each.number: each for each in (there, gone)})
        host.send(wire.AskKernels([there.number, gone.number]))
        await asyncio.wait_for(asyncio.gather(there.ready, gone.exited), 10)
        assert (there.pid, there.exited.done(), gone.ready.done()) == (kernel.pid, False, False)
        host.send(wire.AskKernels([]))
        await eventually(lambda: not alive(kernel.pid))

    await with_kernel(use)


async def test_a_host_that_is_killed_takes_its_kernel_along():
    async def use(host, manager):
        kernel = manager.provisioner.kernel
        await kernel.ready
        host.kill()
        assert await asyncio.wait_for(kernel.exited, 10) == -signal.SIGKILL
        await eventually(lambda: not alive(kernel.pid))

    await with_kernel(use)


def test_a_host_hangs_up_on_whoever_talks_nonsense():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host = subprocess.Popen(
            [*ARGV, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        ours.sendall(b'["launch", {"missiles": 2}]\n')
        ours.settimeout(30)
        assert ours.recv(1) == b""
        with host:
            assert "WireError" in host.communicate(timeout=30)[1]
        assert host.returncode == 1


async def test_a_service_hangs_up_on_a_host_that_talks_nonsense():
    liar = [
        sys.executable,
        "-c",
        "import os, sys; os.write(int(sys.argv[1]), b'nonsense\\n'); input()",
    ]
    host = await KernelHost.spawn(unsandboxed("/"), liar, {})
    await asyncio.wait_for(host.closed.wait(), 30)
    kernel = host.start_kernel("{}", Path("/nowhere"), cwd=Path("/"), env={}, limits={})
    assert kernel.exited.result() == -signal.SIGKILL
    await host.close()


@pytest.mark.parametrize("broken", ["exit", "hang"])
async def test_a_kernel_that_does_not_start_says_why(broken, monkeypatch):
    # How long a kernel has to end that its host hears nothing of.
    monkeypatch.setattr("kernelsvc.kernels.kernel._DISCONNECT_SECONDS", 0.05)
    code = {
        "exit": "import sys; sys.exit('no such interpreter here')",
        "hang": "import time; time.sleep(600)",
    }[broken]
    with tempfile.TemporaryDirectory(prefix="ks") as directory:
        runtime = RuntimeDirectory(Path(directory))
        runtime.open()
        launcher = Launcher(runtime, Isolation(None), patience=0.5 if broken == "hang" else 60)
        host = await KernelHost.spawn(unsandboxed(directory), [sys.executable, "-c", code], {})
        seat = await launcher.seat(PYTHON, Path(directory), Limits())
        await seat.host.close()
        seat.host = host
        expected = {"exit": "no such interpreter here", "hang": "not ready in 0.5 s"}[broken]
        with pytest.raises(KernelStartFailed, match=expected):
            await launcher.start(seat, PYTHON, lambda request_id, event: None)
        host.kill()
        await seat.close()
        await launcher.close()
        runtime.close()


async def test_a_kernel_that_nobody_was_told_of_gives_way_to_the_one_before_and_no_memory_is_lost():
    said = []

    async def ran(kernel, code):
        execution = kernel.execute(code, {}, None, said.append, lambda request_id: None)
        await execution.until_done(30)
        assert execution.is_done

    def restored():
        return launcher.restore(seat, PYTHON, lambda request_id, event: None, run)

    with tempfile.TemporaryDirectory(prefix="ks") as directory:
        runtime = RuntimeDirectory(Path(directory))
        runtime.open()
        launcher = Launcher(runtime, Isolation(None), patience=60)
        seat = await launcher.seat(PYTHON, Path(directory), Limits())
        first = await launcher.start(seat, PYTHON, lambda request_id, event: None)
        await ran(first, "x = 41")
        run = await first.snapshot(30)
        # A copy can only be made once the snapshot has told the host of itself.
        copy = seat.host.copy(Memory(first.process, run))
        await asyncio.wait_for(copy.started, 30)
        copy.forget()
        first.process.kill()
        await asyncio.wait_for(first.ended.wait(), 30)
        untold = await restored()
        # What another service asks that knows of the first kernel only.
        seat.latest = HostedKernel(seat.host, first.process.number)
        seat.host._kernels[seat.latest.number] = seat.latest
        seat.host.send(wire.AskKernels([seat.latest.number]))
        assert await asyncio.wait_for(seat.latest.exited, 30) == -signal.SIGKILL
        assert not seat.latest.ready.done()
        assert not alive(untold.process.pid)
        kernel = await restored()
        await ran(kernel, "print(x + 1)")
        assert "42" in "".join(event.text for event in said if isinstance(event, Text))
        untold.process.forget()
        for each in (first, untold, kernel):
            await each.close()
        await seat.close()
        await launcher.close()
        runtime.close()


async def with_program(argv, use, **environment):
    """Calls `use(host, program, output)` with a program that a host runs."""
    with tempfile.TemporaryDirectory(prefix="ks") as directory:
        host = await KernelHost.spawn(unsandboxed(directory), ARGV, {"PATH": os.environ["PATH"]})
        output = Path(directory, "output")
        env = {"PATH": os.environ["PATH"], **environment}
        program = host.start_program(argv, output, cwd=Path(directory), env=env, limits={})
        try:
            await use(host, program, output)
        finally:
            await host.close()


async def test_a_host_runs_a_program_and_keeps_what_it_says():
    async def use(host, program, output):
        await asyncio.wait_for(program.ready, 30)
        assert await asyncio.wait_for(program.exited, 30) == 3
        assert output.read_text() == f"of {output.parent}\nto stderr\n"

    await with_program(["sh", "-c", "echo $WORD $PWD; echo to stderr >&2; exit 3"], use, WORD="of")


async def test_a_program_is_interrupted_as_a_terminal_would_and_has_nothing_of_its_hosts():
    code = "import os, time; print(os.listdir('/proc/self/fd'), flush=True); time.sleep(60)"

    async def use(host, program, output):
        await eventually(lambda: output.exists() and output.read_text().endswith("\n"))
        program.signal(signal.SIGINT)
        assert await asyncio.wait_for(program.exited, 30) == -signal.SIGINT
        # 3 is the directory that it lists.
        assert output.read_text().splitlines()[0] == "['0', '1', '2', '3']"

    await with_program([sys.executable, "-c", code], use)


async def test_a_program_that_is_not_there_says_so():
    async def use(host, program, output):
        assert await asyncio.wait_for(program.exited, 30) == 127
        assert host.last_words == "nonesuch: No such file or directory"

    await with_program(["nonesuch"], use)

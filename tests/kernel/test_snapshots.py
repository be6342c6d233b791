"""The keeper of snapshots, which believes nobody, and what a snapshot lets go of."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from kernelsvc.kernel_host.keeper import GONE, NOT_ANY, Keeper, Snapshot


class Child:
    """A process that tells a keeper of itself, as a snapshot does, and ends when it is hung up on.

    This process is host and kernel in one: the child is told by its parent.
    """

    def __init__(self, keeper, said, *, with_socket=True):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            fds = [theirs.fileno()] if with_socket else []
            socket.send_fds(keeper.in_kernel, [json.dumps(said).encode()], fds)
            theirs.close()
            os.write(tell, b"1")
            ours.recv(100)
            os._exit(7)
        with ours, theirs:
            os.read(told, 1)
        os.close(told)
        os.close(tell)
        keeper.hear(os.getpid())

    def end(self):
        """Its return code, once it has ended."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


NUMBERS = itertools.count(1)


def snapshot_of(keeper, run, without=(), number=None):
    number = next(NUMBERS) if number is None else number
    return Child(keeper, {"run": run, "number": number, "without": list(without)})


@pytest.fixture
def keeper():
    keeper = Keeper()
    yield keeper
    keeper.drop()
    keeper.heard.close()
    keeper.in_kernel.close()


def test_the_snapshot_of_the_run_is_given_and_the_one_before_is_killed(keeper):
    first = snapshot_of(keeper, "one")
    second = snapshot_of(keeper, "two", ["1 thread"])
    assert first.end() == -signal.SIGKILL
    taken = keeper.take("two")
    assert isinstance(taken, Snapshot)
    assert (taken.pid, taken.without) == (second.pid, ["1 thread"])
    taken.orders.send(b"be the kernel")
    taken.free()
    assert second.end() == 7
    assert not keeper.has_any


def test_a_snapshot_of_another_run_is_never_given(keeper):
    child = snapshot_of(keeper, "one")
    assert keeper.take("two") == NOT_ANY
    assert child.end() == -signal.SIGKILL


def test_one_that_tells_of_itself_late_does_not_take_the_place_of_a_later_one(keeper):
    later = snapshot_of(keeper, "two", number=1 << 20)
    late = snapshot_of(keeper, "one", number=(1 << 20) - 1)
    assert late.end() == 7
    assert keeper.knows(later.pid)
    keeper.drop()
    assert later.end() == -signal.SIGKILL


def test_one_that_was_forked_is_coming_until_it_tells_of_itself_or_is_gone(keeper):
    keeper.in_kernel.send(b'{"forked": 1}')
    keeper.hear(os.getpid())
    assert not keeper.is_one_coming
    with subprocess.Popen(["sleep", "60"]) as other:
        keeper.in_kernel.send(json.dumps({"forked": other.pid}).encode())
        keeper.hear(os.getpid())
        assert keeper.is_one_coming
        other.kill()
    assert not keeper.is_one_coming


def test_behind_a_signal_the_one_before_stays_until_another_comes(keeper):
    before = snapshot_of(keeper, "one")
    keeper.expect_end()
    timed_out = snapshot_of(keeper, "two")
    assert keeper.knows(before.pid)
    taken = keeper.take("one")
    assert isinstance(taken, Snapshot)
    assert taken.pid == before.pid
    assert timed_out.end() == -signal.SIGKILL
    taken.kill()
    assert before.end() == -signal.SIGKILL

    first = snapshot_of(keeper, "one")
    keeper.expect_end()
    second, third = snapshot_of(keeper, "two"), snapshot_of(keeper, "three")
    assert (first.end(), second.end()) == (-signal.SIGKILL, -signal.SIGKILL)
    assert keeper.knows(third.pid)
    keeper.drop()
    assert third.end() == -signal.SIGKILL


def test_a_snapshot_that_has_been_killed_is_not_given(keeper):
    child = snapshot_of(keeper, "one")
    os.kill(child.pid, signal.SIGKILL)
    child.end()
    assert keeper.take("one") == GONE


def test_a_refusal_takes_the_place_of_what_stood_and_is_told(keeper):
    child = snapshot_of(keeper, "one")
    keeper.in_kernel.send(b'{"run": "two", "number": 1000, "why": "too large"}')
    keeper.hear(os.getpid())
    assert child.end() == -signal.SIGKILL
    assert keeper.take("two") == "too large"
    for run in (b"three", b"four"):
        keeper.in_kernel.send(
            b'{"run": "%b", "number": 1001, "why": "too large for %b"}' % (run, run)
        )
        keeper.hear(os.getpid())
        keeper.expect_end()
    assert keeper.has_word_of("three")
    assert keeper.take("three") == "too large for three"
    keeper.in_kernel.send(b'{"run": "", "number": 1002, "why": "off"}')
    keeper.hear(os.getpid())
    assert keeper.take("any") == "off"
    assert keeper.take("any") == NOT_ANY


@pytest.mark.parametrize(
    "said",
    [b"", b"{", b"[]", b"null", b'{"run": 1, "number": 1, "without": []}',
     b'{"run": "one", "number": 1, "without": 1}', b'{"run": "one", "number": 1}',
     b'{"run": "one", "number": 1, "why": null}', b'{"run": "one", "why": ""}', b"\xff",
     b"[" * 4000],
)  # fmt: skip
def test_nonsense_is_passed_over(keeper, said):
    child = snapshot_of(keeper, "one")
    keeper.in_kernel.send(said or b" ")
    keeper.hear(os.getpid())
    assert keeper.knows(child.pid)
    keeper.drop()
    child.end()


def test_who_is_no_child_of_the_kernels_or_sends_no_socket_is_no_snapshot(keeper):
    this = {"run": "one", "number": 1, "without": []}
    # This process itself: nobody may have its host kill it.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        socket.send_fds(keeper.in_kernel, [json.dumps(this).encode()], [one.fileno()])
    before = len(os.listdir("/proc/self/fd"))
    keeper.hear(os.getpid())
    assert not keeper.has_any
    assert len(os.listdir("/proc/self/fd")) == before
    child = Child(keeper, this, with_socket=False)
    assert not keeper.has_any
    assert child.end() == 7


LET_GO = """
import os, select, socket, sys
from kernelsvc.kernel_host.inherited import Descriptors
own, _ = socket.socketpair()
descriptors = Descriptors(lambda address: address == sys.argv[2])
later = socket.socket(socket.AF_UNIX)
later.bind(sys.argv[2])
file = open(sys.argv[1])
reader, writer = os.pipe()
mine = socket.create_server(("127.0.0.1", 0))
kept, _kept = os.pipe()
found = descriptors.let_go(keep={kept})
def works(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
said = [+found, works(own.fileno()), works(later.fileno()), works(kept), works(mine.fileno())]
said += [file.read(), os.read(reader, 1)]
try:
    os.write(writer, b"x")
except BrokenPipeError:
    said.append("EPIPE")
with open(sys.argv[3], "w") as out:
    print(*said, file=out)
os._exit(0)
"""


def test_files_stay_the_kernels_own_goes_and_the_codes_own_is_plugged(tmp_path):
    (tmp_path / "file").write_text("content")
    arguments = [tmp_path / "file", tmp_path / "socket", tmp_path / "out"]
    subprocess.run([sys.executable, "-c", LET_GO, *arguments], check=True, timeout=60)
    told = "Counter({'socket': 1}) False False True True content b'' EPIPE\n"
    assert (tmp_path / "out").read_text() == told

"""How a run ended, in the words of the contract."""

import signal

import pytest

from kernelsvc.kernels.ladder import Ending, Stop
from kernelsvc.models.event import Replied
from kernelsvc.sessions import result
from kernelsvc.sessions.result import Lost, Restored

OK = Replied(failed=False, ename=None, exit_code=0, execution_count=1)


def failed(ename, exit_code=1):
    return Replied(failed=True, ename=ename, exit_code=exit_code, execution_count=1)


def ending(reply=None, returncode=None, *, stopped=None, timed_out=False):
    return Ending(timed_out, stopped, reply, returncode, complete=True)


CASES = [
    ("ends normally", ending(OK), 0, "completed"),
    ("raises", ending(failed("ValueError")), 1, "failed"),
    ("sys.exit(3)", ending(failed("SystemExit", 3)), 3, "failed"),
    ("sys.exit(0)", ending(failed("SystemExit", 0)), 0, "completed"),
    ("sys.exit(130)", ending(failed("SystemExit", 130)), 130, "failed"),
    ("raises KeyboardInterrupt itself", ending(failed("KeyboardInterrupt")), 1, "failed"),
    ("os._exit(7)", ending(returncode=7), 7, "failed"),
    ("os._exit(0)", ending(returncode=0), 0, "completed"),
    ("killed", ending(returncode=-signal.SIGKILL), 137, "failed"),
    ("segmentation fault", ending(returncode=-signal.SIGSEGV), 139, "failed"),
    ("terminated", ending(returncode=-signal.SIGTERM), 143, "failed"),
    ("gives no reply and lives", ending(), 1, "failed"),
    ("times out", ending(failed("KeyboardInterrupt"), -9, timed_out=True), 124, "timed_out"),
    ("times out and ends well", ending(OK, timed_out=True), 124, "timed_out"),
    ("times out and leaves with 124", ending(returncode=124, timed_out=True), 124, "timed_out"),
    (
        "interrupted",
        ending(failed("KeyboardInterrupt"), stopped=Stop.INTERRUPT),
        130,
        "interrupted",
    ),
    (
        "interrupted in an await",
        ending(failed("CancelledError"), stopped=Stop.INTERRUPT),
        130,
        "interrupted",
    ),
    ("interrupted, ends well", ending(OK, stopped=Stop.INTERRUPT), 0, "completed"),
    (
        "interrupted, raises another",
        ending(failed("ValueError"), stopped=Stop.INTERRUPT),
        1,
        "failed",
    ),
    ("restarted", ending(returncode=-9, stopped=Stop.END), 130, "interrupted"),
    ("deleted", ending(returncode=-9, stopped=Stop.KILL), 130, "interrupted"),
]


@pytest.mark.parametrize(
    ("how", "exit_code", "status"),
    [pytest.param(*case[1:], id=case[0]) for case in CASES],
)
def test_exit_code_and_status_are_those_of_the_contract(how, exit_code, status):
    assert result.exit_code(how) == exit_code
    assert result.status(how, exit_code) == status


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (ending(returncode=-9), "was killed by signal 9 (SIGKILL)"),
        (ending(returncode=7), "exited with status 7"),
        (ending(returncode=-9, timed_out=True), "timed out"),
        (ending(returncode=-9, stopped=Stop.END), "on request"),
        (ending(returncode=-9, stopped=Stop.KILL), "session was ended"),
        (ending(returncode=-64), "signal 64"),
        (ending(returncode=-99), "signal 99 (unknown)"),
    ],
)
def test_a_kernel_that_is_there_no_more_is_told_of(how, words):
    assert words in result.why_it_ended(how, None)


@pytest.mark.parametrize(
    ("replaced", "memory", "detail"),
    [
        (Lost(), "lost", "it died"),
        (Lost("too big"), "lost", "it died; there is no snapshot of the memory: too big"),
        (Restored(()), "restored", "it died: the memory is as after the last completed run"),
        (
            Restored(("1 thread",)),
            "restored",
            "it died: the memory is as after the last completed run, without 1 thread",
        ),
        (
            Restored(("1 thread", "2 sockets", "1 child process")),
            "restored",
            "it died: the memory is as after the last completed run, "
            "without 1 thread, 2 sockets and 1 child process",
        ),
    ],
)
def test_what_became_of_the_memory_is_told_with_why(replaced, memory, detail):
    assert result.change("it died", replaced) == (memory, detail)

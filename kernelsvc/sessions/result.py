"""How a run ended, in the words of the API. Pure."""

import signal
from collections.abc import Sequence
from typing import Any, NamedTuple

from kernelsvc.kernels.ladder import Ending, Stop
from kernelsvc.models.limits import LimitExceeded
from kernelsvc.models.run import Memory, RunError, RunStatus
from kernelsvc.outputs.collector import Collected

TIMED_OUT = 124
INTERRUPTED = 130


class Change(NamedTuple):
    """What became of a session's memory when its kernel was replaced, and why."""

    memory: Memory
    detail: str

    def behind(self, earlier: "Change | None") -> "Change":
        """This one, where nobody has been told of an earlier one yet: of that, too.

        Memory that is lost is no longer without anything, and what brings back the memory that a
        kernel has had since does not bring back what was lost before.
        """
        if earlier is None or self.memory == "lost":
            return self
        return Change(earlier.memory, f"{earlier.detail}; {self.detail}")


class Restored(NamedTuple):
    """A new kernel has the memory of the last completed run; what the old one had `without`."""

    without: Sequence[str]


class Lost(NamedTuple):
    """A new kernel's memory is empty; `why` there was no snapshot, where that is to be said."""

    why: str | None = None


def fields(
    ending: Ending,
    collected: Collected,
    change: Change | None,
    exceeded: LimitExceeded | None = None,
) -> dict[str, Any]:
    """The fields of `Run` that tell how it ended and what it put out.

    `change` is what became of the memory since the previous answer, None where it was kept;
    `exceeded`, which limit the kernel was killed for.
    """
    code = exit_code(ending)
    kept, detail = change or ("kept", None)
    error = collected.error
    told = error and RunError(
        ename=error.ename, evalue=error.evalue, traceback=list(error.traceback)
    )
    if exceeded is not None:
        told = RunError(ename=exceeded.name, evalue=exceeded.message, traceback=[])
    return {
        "status": status(ending, code),
        "exit_code": code,
        "stdout": collected.stdout,
        "stderr": collected.stderr,
        "outputs": collected.outputs,
        "text": collected.text,
        "error": told,
        "timed_out": ending.timed_out,
        "memory": kept,
        "memory_detail": detail,
        "execution_count": ending.reply.execution_count if ending.reply else None,
        "truncated": collected.cut_bytes > 0 or not ending.complete,
        "truncated_bytes": collected.cut_bytes,
    }


def exit_code(ending: Ending) -> int:
    """The run's exit code, as the contract lists them."""
    if ending.timed_out:
        return TIMED_OUT
    if ending.stopped in (Stop.END, Stop.KILL):
        return INTERRUPTED
    if ending.returncode is not None:
        return ending.returncode if ending.returncode >= 0 else 128 - ending.returncode
    reply = ending.reply
    if reply is None or reply.ename in ("KeyboardInterrupt", "CancelledError"):
        return INTERRUPTED if ending.stopped is Stop.INTERRUPT else 1
    return reply.exit_code


def status(ending: Ending, code: int) -> RunStatus:
    """The run's status for that exit code."""
    if ending.timed_out:
        return "timed_out"
    if code == INTERRUPTED and ending.stopped is not None:
        return "interrupted"
    return "completed" if code == 0 else "failed"


def change(why: str, replaced: Restored | Lost) -> Change:
    """What became of the memory where a kernel was replaced for this reason."""
    match replaced:
        case Restored(without):
            but = f", without {_listed(without)}" if without else ""
            return Change("restored", f"{why}: the memory is as after the last completed run{but}")
        case Lost(None):
            return Change("lost", why)
        case Lost(no_snapshot):
            return Change("lost", f"{why}; there is no snapshot of the memory: {no_snapshot}")


def of_copy(source: str, without: Sequence[str], lost: str | None) -> Change:
    """What became of the memory of a copy of another session, which that may have `lost`."""
    if lost is not None:
        return Change("lost", f"the session is a copy of {source}: {lost}")
    but = f", without {_listed(without)}" if without else ""
    return Change("restored", f"the session is a copy of {source}, with its memory{but}")


def _listed(words: Sequence[str]) -> str:
    *front, last = words
    return f"{', '.join(front)} and {last}" if front else last


def why_it_ended(ending: Ending, exceeded: LimitExceeded | None) -> str:
    """Why the kernel that a run had is there no more; `ending` has a return code."""
    if exceeded is not None:
        return f"{exceeded.message}; the kernel was killed and replaced"
    if ending.timed_out:
        return "the run timed out and its kernel was replaced"
    if ending.stopped is Stop.END:
        return "the kernel was ended on request while the run was going on"
    if ending.stopped is Stop.KILL:
        return "the session was ended while the run was going on"
    assert ending.returncode is not None
    return f"the kernel {how_it_ended(ending.returncode)} during the run and was replaced"


def why_between_runs(returncode: int, exceeded: LimitExceeded | None) -> str:
    """Why a kernel is there no more that ended while nothing ran."""
    if exceeded is not None:
        return f"between runs, {exceeded.message}; the kernel was killed and replaced"
    return f"the kernel {how_it_ended(returncode)} between runs and was replaced"


def how_it_ended(returncode: int) -> str:
    """The end of a process in words: exited with status 7, was killed by signal 9 (SIGKILL)."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-returncode} ({name})"

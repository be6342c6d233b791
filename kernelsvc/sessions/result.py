"""How a run ended, in the words of the API. Pure."""

import signal
from typing import Any

from kernelsvc.kernels.ladder import Ending, Stop
from kernelsvc.models.limits import LimitExceeded
from kernelsvc.models.run import Memory, RunError, RunStatus
from kernelsvc.outputs.collector import Collected

TIMED_OUT = 124
INTERRUPTED = 130


def fields(
    ending: Ending,
    collected: Collected,
    lost_before: str | None,
    exceeded: LimitExceeded | None = None,
    restored_before: str | None = None,
) -> dict[str, Any]:
    """The fields of `Run` that tell how it ended and what it put out.

    `lost_before` says why the memory was lost before the run, `restored_before` that it was
    restored and what of it was not; `exceeded`, which limit the kernel was killed for.
    """
    code = exit_code(ending)
    kept, detail = memory(ending, lost_before, exceeded, restored_before)
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


def memory(
    ending: Ending,
    lost_before: str | None,
    exceeded: LimitExceeded | None = None,
    restored_before: str | None = None,
) -> tuple[Memory, str | None]:
    """What became of the session's memory since the last answer, and why."""
    if exceeded is not None:
        return "lost", f"{exceeded.message}; the kernel was killed and replaced"
    if ending.returncode is not None:
        return "lost", _why_it_ended(ending)
    if lost_before is not None:
        return "lost", lost_before
    if restored_before is not None:
        return "restored", restored_before
    return "kept", None


def _why_it_ended(ending: Ending) -> str:
    if ending.timed_out:
        return "the run timed out and its kernel was replaced"
    if ending.stopped is Stop.END:
        return "the kernel was ended on request while the run was going on"
    if ending.stopped is Stop.KILL:
        return "the session was ended while the run was going on"
    assert ending.returncode is not None
    return f"the kernel {how_it_ended(ending.returncode)} during the run and was replaced"


def why_between_runs(returncode: int, exceeded: LimitExceeded | None) -> str:
    """Why the memory is lost of a kernel that ended while nothing ran."""
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

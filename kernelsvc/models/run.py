"""Runs: what is asked for, and how it ended."""

import secrets
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from kernelsvc.models.fields import (
    CallbackUrl,
    Environment,
    OnTimeout,
    SourceCode,
    Text,
    Timeout,
    UtcTime,
)
from kernelsvc.models.output import Output

RunStatus = Literal["queued", "running", "completed", "failed", "timed_out", "interrupted"]
Memory = Literal["kept", "restored", "lost"]


class RunRequest(BaseModel):
    """The body of POST /api/sessions/{id}/run.

    Without `code` it is the code that is stored in the session. `timeout` is in seconds and counts
    from when the kernel starts on the code; None means the session's default. `stdin` is what
    input() and sys.stdin read, line by line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: SourceCode | None = None
    timeout: Timeout = None
    env: Environment = Field(default_factory=dict)
    on_timeout: OnTimeout | None = None
    stdin: Text | None = None
    background: StrictBool = False
    callback_url: CallbackUrl = None
    if_busy: Literal["queue", "reject"] = "queue"


class RunError(BaseModel):
    """The exception that ended a run."""

    ename: str
    evalue: str
    traceback: list[str]


class RunUsage(BaseModel):
    """What a run took; None where that is not known.

    `queue_seconds` it waited for its turn and a kernel, `wall_seconds` its code ran. `cpu_seconds`
    are those of the kernel and of its children that have ended, `peak_memory_bytes` is the most
    that the kernel's process has held since it started. `output_bytes` it has put out, what was cut
    included.
    """

    queue_seconds: float
    wall_seconds: float
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    output_bytes: int


def new_run_id() -> str:
    """An id that no run has."""
    return "run_" + secrets.token_hex(12)


class Run(BaseModel):
    """A run and its result.

    `exit_code` is as the contract lists them: 0, 1, the code's own, 124 timeout, 130 interrupted,
    128 + signal where the kernel died. `stdout` and `stderr` are the text of the stream outputs, to
    `stderr` the plain traceback is added. `background` is what the run's threads and tasks printed
    after it had ended. `truncated_bytes` were cut from the middle of the output. `missing` says
    what of it the service itself has not received, and why; `truncated` is true then, too. `memory`
    says what became of the session's memory since the previous answer.
    """

    run_id: str
    session_id: str
    status: RunStatus
    language: str
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    duration: str | None = None
    outputs: list[Output] = Field(default_factory=list)
    background: str = ""
    text: str | None = None
    error: RunError | None = None
    timed_out: bool = False
    memory: Memory = "kept"
    memory_detail: str | None = None
    execution_count: int | None = None
    truncated: bool = False
    truncated_bytes: int = 0
    missing: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    data_detail: str | None = None
    queued_at: Annotated[datetime, UtcTime] | None = None
    started_at: Annotated[datetime, UtcTime] | None
    usage: RunUsage | None = None


class RunSummary(BaseModel):
    """A run in a session's history, with the code that was run."""

    run_id: str
    status: RunStatus
    exit_code: int | None
    duration: str | None
    queued_at: Annotated[datetime, UtcTime] | None = None
    started_at: Annotated[datetime, UtcTime] | None
    code: str
    text: str | None = None
    timed_out: bool = False
    memory: Memory = "kept"
    usage: RunUsage | None = None


class RunList(BaseModel):
    """A session's latest runs, newest first."""

    runs: list[RunSummary]
    count: int

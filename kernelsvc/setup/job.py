"""One session's setup: its steps, one after the other, until one fails or it is stopped.

Theory of operation. `run` is one task, which nobody cancels: it holds sandboxes, and whatever takes
long is waited for together with `Stop`, by which everybody else ends it. What its programs print
goes to files in the sandbox; who wants to know how far it has come reads them.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from kernelsvc.errors import KernelsvcError
from kernelsvc.kernels.hosted import HostedKernel
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.limits import Limits, readable_size
from kernelsvc.models.setup import Setup, SetupResult, SetupStatus, SetupStep, StepStatus
from kernelsvc.setup.log import MOST_BYTES, cut, read_log, reason_in, unreachable
from kernelsvc.setup.plan import RESULTS, Attempt, Step, plan
from kernelsvc.setup.sandboxes import Failed, Sandbox, Sandboxes, SetupParts, Stop

_LOOK_SECONDS = 1.0
_EXIT_SECONDS = 15.0
_SIGNALLED = 128
_BUILDING = "\n[not everything is there as a wheel: trying again, and building what is not]\n"

log = structlog.get_logger()


@dataclass
class _Progress:
    """How far a step has come; `log` is what has been read of it."""

    step: Step
    status: StepStatus = "pending"
    exit_code: int | None = None
    seconds: float | None = None
    log: str = ""


@dataclass(frozen=True)
class _Written:
    """The log that a step's program is writing."""

    directory: Path
    name: str
    progress: _Progress


class SetupJob:
    """Made for one `run`; `take` and `give_back` are those of `Sandboxes`."""

    def __init__(
        self,
        parts: SetupParts,
        session_id: str,
        setup: Setup,
        limits: Limits,
        take: Callable[[], Awaitable[None]],
        give_back: Callable[[], None],
    ) -> None:
        self.status: SetupStatus = "pending"
        self._parts = parts
        self._session_id = session_id
        self._setup = setup
        self._limits = limits
        self._stop = Stop()
        self._sandboxes = Sandboxes(parts, session_id, limits, self._stop, take, give_back)
        self._own: Sandbox | None = None
        self._steps = [_Progress(step) for step in plan(setup)]
        self._log_bytes = MOST_BYTES // max(1, len(self._steps))
        self._written: _Written | None = None
        self._began: float | None = None
        self._closed = False

    # ---- from outside

    @property
    def seat(self) -> Seat | None:
        """Where its programs run just now."""
        return self._sandboxes.seat

    def stop(self, reason: str) -> None:
        """Kill what is going on; the setup has failed because of `reason`."""
        self._stop.ask(reason)

    def close(self) -> None:
        """Kill what is going on; `run` has no result."""
        self._closed = True
        self._stop.ask("the session is being closed")

    async def progress(self) -> SetupResult:
        """How far it has come."""
        written = self._written
        text = None if written is None else await asyncio.to_thread(self._read, written)
        if written is None or written is not self._written:
            return self._result(None)
        return self._result(None, {written.progress.step.name: text or ""})

    # ---- its life

    async def run(self) -> SetupResult | None:
        """Do it all; None where it was closed before its end."""
        error = None
        try:
            async with AsyncExitStack() as stack:
                await self._stop.or_result(self._parts.turns.acquire())
                stack.callback(self._parts.turns.release)
                self.status, self._began = "running", time.monotonic()
                self._stop.start(self._parts.policy.timeout)
                for progress in self._steps:
                    await self._do(progress, stack)
        except Failed as failure:
            error = str(failure)
        except (KernelsvcError, OSError) as failure:
            log.warning("setup_broke", session_id=self._session_id, exc_info=failure)
            error = str(failure)
        if self._closed:
            return None
        result = self._result(error, ended=True)
        log.info(
            "setup_finished",
            session_id=self._session_id,
            success=result.success,
            duration_ms=result.duration_ms,
        )
        return result

    async def _do(self, progress: _Progress, stack: AsyncExitStack) -> None:
        """Do a step; raises Failed."""
        began, progress.status = time.monotonic(), "running"
        try:
            await self._try(progress, stack)
            progress.status = "completed"
        except BaseException:
            progress.status = "failed"
            raise
        finally:
            progress.seconds = time.monotonic() - began

    async def _try(self, progress: _Progress, stack: AsyncExitStack) -> None:
        *others, last = progress.step.attempts
        for attempt in others:
            why = await self._attempt(progress, attempt, stack)
            if why is None:
                return
            if unreachable(progress.log):
                raise Failed(f"{progress.step.name}: {why}")
            progress.log += _BUILDING
        why = await self._attempt(progress, last, stack)
        if why is not None:
            raise Failed(f"{progress.step.name}: {why}")

    async def _attempt(
        self, progress: _Progress, attempt: Attempt, stack: AsyncExitStack
    ) -> str | None:
        """Run the program where it belongs; None, or why it failed."""
        if not attempt.is_apart:
            # One for all commands: they find each other's files in /tmp, too.
            if self._own is None:
                self._own = await stack.enter_async_context(self._sandboxes.own())
            return await self._run(progress, attempt, self._own)
        async with self._sandboxes.apart() as sandbox:
            why = await self._run(progress, attempt, sandbox)
            if why is None and sandbox.spare is not None:
                await asyncio.to_thread(self._move_in, sandbox.spare)
            return why

    async def _run(self, progress: _Progress, attempt: Attempt, sandbox: Sandbox) -> str | None:
        """Run the program to its end; None, or why it failed. Raises Failed."""
        seat, enclosure = sandbox.seat, sandbox.seat.enclosure
        sandbox.logs += 1
        name = f"setup-{sandbox.logs}.log"
        progress.exit_code, oom_kills = None, enclosure.oom_kills()
        process = seat.host.start_program(
            attempt.argv,
            enclosure.runtime / name,
            cwd=enclosure.workspace,
            env=self._environment(seat, attempt),
            limits=enclosure.rlimits,
        )
        written = self._written = _Written(seat.place.runtime, name, progress)
        try:
            returncode = await self._end_of(process, sandbox)
        finally:
            progress.log = await asyncio.to_thread(self._read, written)
            self._written = None
        progress.exit_code = returncode if returncode >= 0 else _SIGNALLED - returncode
        if returncode == 0:
            return None
        if enclosure.oom_kills() > oom_kills and self._limits.memory is not None:
            return f"ran out of memory: the session may use {readable_size(self._limits.memory)}"
        if (why := unreachable(progress.log)) is not None:
            return f"the package index could not be reached: {why}"
        said = reason_in(progress.log) or seat.host.last_words
        return f"exit code {progress.exit_code}" + (f": {said}" if said else "")

    def _move_in(self, spare: Path) -> None:
        most = math.inf if self._limits.disk is None else self._limits.disk
        self._parts.workspaces.move_in(self._session_id, spare, RESULTS, most)

    def _environment(self, seat: Seat, attempt: Attempt) -> dict[str, str]:
        environment = {**seat.environment, **self._parts.policy.environment, **attempt.environment}
        if (cache := seat.enclosure.cache) is None:
            return {**environment, **self._setup.envs}
        return {**environment, "PIP_CACHE_DIR": f"{cache}/pip", "DENO_DIR": f"{cache}/deno"}

    async def _end_of(self, process: HostedKernel, sandbox: Sandbox) -> int:
        """What the program returned; raises Failed where it had to be killed."""
        while not process.exited.done():
            await self._stop.wait(process.exited, _LOOK_SECONDS)
            why = self._stop.reason or await self._outgrown(sandbox)
            if why is not None and not process.exited.done():
                process.kill()
                await asyncio.wait([process.exited], timeout=_EXIT_SECONDS)
                raise Failed(why)
        return process.exited.result()

    async def _outgrown(self, sandbox: Sandbox) -> str | None:
        """A session may have as much downloaded as it may keep."""
        if sandbox.spare is None or self._limits.disk is None:
            return None
        outgrown = await asyncio.to_thread(self._parts.cache.outgrows, self._limits.disk)
        return "more was downloaded than the session may keep" if outgrown else None

    # ---- what it tells

    def _read(self, written: _Written) -> str:
        owner, so_far = self._parts.workspaces.owner_uid, written.progress.log
        text = so_far + read_log(written.directory, written.name, owner, self._log_bytes)
        return cut(text, self._log_bytes)

    def _result(
        self, error: str | None, logs: dict[str, str] | None = None, *, ended: bool = False
    ) -> SetupResult:
        now = time.monotonic()
        steps = [
            SetupStep(
                name=progress.step.name,
                command=progress.step.command,
                status="skipped" if ended and progress.status == "pending" else progress.status,
                exit_code=progress.exit_code,
                duration=None if progress.seconds is None else f"{progress.seconds:.3f}s",
                log=(logs or {}).get(progress.step.name, progress.log),
            )
            for progress in self._steps
        ]
        commands = [step for step in steps if step.name.startswith("commands.")]
        return SetupResult(
            success=ended and error is None,
            duration_ms=0 if self._began is None else round((now - self._began) * 1000),
            pip_packages=list(self._setup.pip),
            npm_packages=list(self._setup.npm),
            go_modules=list(self._setup.go),
            commands_run=[
                step.command for step in commands if step.status not in ("pending", "skipped")
            ],
            steps=steps,
            error=error,
        )

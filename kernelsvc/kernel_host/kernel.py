"""The kernel of a session: IPythonKernel with what a run needs and the stock kernel lacks.

What a run asks for travels in the execute request's metadata under `METADATA_KEY`
(`{"env": {...}, "stdin": "...", "snapshot": <up to how many bytes>}`): the Jupyter messaging
protocol leaves metadata to its users. A request with a `memory` there (`memory.told`) runs no code,
but keeps what the kernel holds. How
such a request has ended is in the metadata of its `idle`, which the service waits for anyway, and
no reply is sent beside it. Requests of other clients are answered as the protocol has it.
"""

import asyncio
import contextlib
import contextvars
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import ExecutionResult
from traitlets import Any as AnyTrait

from kernelsvc.kernel_host.interrupts import cancelled_on_sigint
from kernelsvc.kernel_host.latest import LATEST_REQUEST, LatestRun
from kernelsvc.kernel_host.memory import told
from kernelsvc.kernel_host.memory.state import Baseline
from kernelsvc.kernel_host.shell import Shell
from kernelsvc.kernel_host.snapshot import Snapshots
from kernelsvc.kernel_host.streams import Output
from kernelsvc.kernel_host.wire import METADATA_KEY


def exit_status(error: BaseException | None) -> int:
    """The status that python itself would have exited with for this end of a program."""
    match error:
        case None | SystemExit(code=None):
            return 0
        case SystemExit(code=int(code)):
            return code & 0xFF
        case _:
            return 1


class Kernel(IPythonKernel):
    """Runs cells; each with its own environment, stdin, label and exit status."""

    shell_class = Shell
    output: Output
    baseline: Baseline
    snapshots: Snapshots
    shell_stream = AnyTrait()
    control_stream = AnyTrait()
    _execute_sleep = 0  # the stock pause is for clients that lose output

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._exit_code = 0
        self._interrupted = False
        self._stdin: io.StringIO | None = None
        self._latest = LatestRun()
        self._context = contextvars.copy_context()
        self.control_handlers[LATEST_REQUEST] = self._tell_latest
        assert self.shell is not None
        self.shell.events.register("post_run_cell", self._note_result)
        warnings.filterwarnings("ignore", message="To exit: use 'exit'")
        # Python 3.12 and later warn at each snapshot, which is a fork with care.
        warnings.filterwarnings("ignore", message=".*use of fork.. may lead to deadlocks")

    def resume(self) -> None:
        """Serve on, in a process that was a snapshot."""
        # Whoever held it in the process before is not there.
        self._main_asyncio_lock = asyncio.Lock()

    def start(self) -> None:
        """Take requests, in this process and its event loop."""
        super().start()
        self.shell_stream.io_loop = self.io_loop
        self.shell_stream.on_recv(self._begin_request)
        asyncio.get_event_loop().add_reader(self.shell_stream, self.shell_stream.turn)
        self._requests = set[asyncio.Task[None]]()

    def _begin_request(self, frames: list[bytes]) -> None:
        """Work for a request once those before it are done; they share context variables."""
        request = asyncio.get_event_loop().create_task(
            self.shell_main(None, frames), context=self._context
        )
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    def set_parent(self, ident: Any, parent: Any, channel: str = "shell") -> None:
        """Begin to work for a request: whatever is printed from here on is labelled with it."""
        super().set_parent(ident, parent, channel)
        if channel == "shell":
            self.output.begin(parent)
            if parent.get("msg_type") == "execute_request" and self.output.capture is not None:
                self.output.capture.begin(parent)

    def label(self) -> Any:
        """The request that the calling thread or task works for."""
        return self.get_parent("shell")

    def set_label(self, parent: Any) -> Callable[[], None]:
        """Make the calling thread work for `parent`; returns what undoes it."""
        assert self.shell is not None
        tokens = self.shell.set_thread_parent(parent)
        token = self._shell_parent.set(parent)

        def reset() -> None:
            assert self.shell is not None
            self._shell_parent.reset(token)
            self.shell.reset_thread_parent(tokens)

        return reset

    def _publish_status(self, status: str, channel: str, parent: Any = None) -> None:
        """Say whether a request is being worked on; nothing interrupts the main thread just now.

        Of our runs, this is said when they can be interrupted, and with how they have ended.
        """
        about = parent or self.get_parent(channel)
        if channel != "shell":
            self.iopub_thread.send_multipart(self._status(status, about))
        elif not _is_run(about):
            self.iopub_thread.send_at_once(self._status(status, about))

    def _say_begun(self) -> None:
        """Say that a run is being worked on: it can be interrupted from here on."""
        about = self.get_parent("shell")
        self.iopub_thread.send_at_once(self._status("busy", about))

    def pre_handler_hook(self) -> None:
        """Called before each request: an interrupt of a run waits until its code is there."""
        if self.get_parent("shell")["header"]["msg_type"] == "execute_request":
            self._interrupted = False
            signal.signal(signal.SIGINT, self._note_interrupt)
        else:
            super().pre_handler_hook()

    def post_handler_hook(self) -> None:
        """Called after each request: between two of them, there is nothing to interrupt."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _note_interrupt(self, signum: int, frame: Any) -> None:
        self._interrupted = True

    def accept_interrupts(self) -> None:
        """Called by the shell where code begins to run: from here on an interrupt is raised in it.

        One that has come since the run was said to have begun is raised now.
        """
        if signal.getsignal(signal.SIGINT) == self._note_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def _status(self, status: str, about: Any, ended: Any = None) -> list[bytes]:
        assert self.session is not None
        metadata = {METADATA_KEY: ended} if ended else None
        content = {"execution_state": status}
        message = self.session.msg("status", content, parent=about, metadata=metadata)
        frames: list[bytes] = self.session.serialize(message, self._topic("status"))
        return frames

    def _publish_execute_input(self, code: str, parent: Any, execution_count: int) -> None:
        """Tell other clients which code runs; but where the service asks, there are none."""
        if not _is_run(parent):
            super()._publish_execute_input(code, parent, execution_count)

    def _note_result(self, result: ExecutionResult | None) -> None:
        if result is not None:
            error = result.error_before_exec or result.error_in_exec
            self._exit_code = exit_status(error)

    async def execute_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Called for an execute request; a run gets its `idle` here, and no reply beside it."""
        code = parent["content"]["code"]
        await self.snapshots.taken(code)
        if not _is_run(parent):
            await super().execute_request(stream, ident, parent)
            self.snapshots.other_ended()
            return
        asked, metadata = parent["content"], parent["metadata"]
        if (memory := metadata[METADATA_KEY].get("memory")) is not None:
            self._remember(parent, memory)
            return
        self._latest.begin(parent)
        silent = asked["silent"]
        if not silent:
            self.execution_count += 1
        reply: dict[str, Any] = {}
        try:
            reply = await self.do_execute(
                code, silent, store_history=asked["store_history"], cell_meta=metadata
            )
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        finally:
            self._say_ended(parent, reply)
            wanted = metadata[METADATA_KEY]
            run, most = parent["header"]["msg_id"], wanted.get("snapshot")
            self.snapshots.run_ended(run, most, at_once=wanted.get("at_once", False))

    def _remember(self, parent: Any, asked: dict[str, Any]) -> None:
        """Write what this kernel holds to a file, or read it from one; an interrupt ends that."""
        ended: dict[str, Any] = {}
        try:
            self.accept_interrupts()
            ended = {"memory": told.carry_out(asked, self.shell, self.baseline)}
        except KeyboardInterrupt:
            ended = {"memory": {"lost": "it was interrupted"}}
        except Exception as error:  # noqa: BLE001  # the code may have broken what this works with
            ended = {"memory": {"lost": type(error).__name__}}
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.iopub_thread.send_at_once(self._status("idle", parent, ended))
            if asked["do"] == "restore":
                # What it has woken with is what is to be restored, until a run has completed.
                self.snapshots.run_ended(asked["token"], asked["snapshot"])

    def _say_ended(self, parent: Any, reply: dict[str, Any]) -> None:
        """Say `idle` of a run, and how it has ended, where code has not broken what finds out."""
        ended = reply and {
            "status": reply["status"],
            "ename": reply.get("ename"),
            "execution_count": reply["execution_count"],
            "exit_code": self._exit_code,
        }
        self._latest.end(parent, ended)
        self.iopub_thread.send_at_once(self._status("idle", parent, ended))

    async def _tell_latest(self, stream: Any, ident: Any, parent: Any) -> None:
        """Called in the control channel's thread, for a service that has not been there before."""
        assert self.session is not None
        self.session.send(stream, "latest_reply", self._latest.told(), parent, ident)

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: Any = None,
        allow_stdin: bool = False,
        *,
        cell_meta: Any = None,
        cell_id: Any = None,
    ) -> dict[str, Any]:
        """Run one cell under the environment and stdin that its metadata asks for."""
        wanted = (cell_meta or {}).get(METADATA_KEY, {})
        self._exit_code = 1
        with _environment(wanted.get("env", {})), self._feed(wanted.get("stdin")):
            if wanted:
                self._say_begun()
            result = await self._run_cell(code, silent, store_history, cell_meta, cell_id)
            reply = self._reply(result, user_expressions)
            # An interrupt that comes from here on is too late, and must not cost the reply.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.output.capture is not None:
            self.output.capture.settle()
        if (
            reply["status"] == "error"
            and self._exit_code == 0
            and reply.get("ename") != "SystemExit"
        ):
            self._exit_code = 1
        return reply

    async def _run_cell(
        self, code: str, silent: bool, store_history: bool, cell_meta: Any, cell_id: Any
    ) -> ExecutionResult:
        """Run one cell: at once, or, where it awaits, in the event loop that runs."""
        shell = self.shell
        assert isinstance(shell, Shell)
        how = {
            "store_history": store_history,
            "silent": silent,
            "cell_id": cell_id,
            "cell_meta": cell_meta,
        }
        shell._last_traceback = None
        shell._last_traceback_during_displayhook = False
        self._forward_input()
        try:
            if not shell.awaits(code):
                done: ExecutionResult = shell.run_cell(code, **how)
                return done
            cell = shell.transform_cell(code)
            running = asyncio.ensure_future(
                shell.run_cell_async(code, transformed_cell=cell, **how)
            )
            result = None
            with cancelled_on_sigint(running):
                try:
                    result = await running
                finally:
                    shell.events.trigger("post_execute")
                    if not silent:
                        shell.events.trigger("post_run_cell", result)
            return result
        finally:
            self._restore_input()

    def _reply(self, result: ExecutionResult, user_expressions: Any) -> dict[str, Any]:
        """The content of the reply to an execute request."""
        shell = self.shell
        assert isinstance(shell, Shell)
        payloads: Any = shell.payload_manager
        reply: dict[str, Any] = {
            "status": "ok",
            "execution_count": shell.execution_count - 1,
            "user_expressions": {},
            "payload": payloads.read_payload(),
        }
        payloads.clear_payload()
        if result.success and not shell._last_traceback_during_displayhook:
            reply["user_expressions"] = shell.user_expressions(user_expressions or {})
            return reply
        error = result.error_before_exec or result.error_in_exec
        return reply | {
            "status": "error",
            "traceback": shell._last_traceback or [],
            "ename": type(error).__name__,
            "evalue": str(error),
        }

    @contextlib.contextmanager
    def _feed(self, text: str | None) -> Iterator[None]:
        """`text` is what input() and sys.stdin read during the run."""
        original = sys.stdin
        self._stdin = None if text is None else io.StringIO(text)
        if self._stdin is not None:
            sys.stdin = self._stdin
        try:
            yield
        finally:
            if self._stdin is not None and sys.stdin is self._stdin:
                sys.stdin = original
            self._stdin = None

    def raw_input(self, prompt: object = "") -> str:
        """input(): the next line of the run's stdin.

        Raises StdinNotImplementedError where the run has none, EOFError at its end.
        """
        if self._stdin is None:
            raise StdinNotImplementedError(
                "this run has no stdin: send the lines that input() should read as 'stdin'"
            )
        print(prompt, end="", flush=True)
        line = self._stdin.readline()
        if not line:
            raise EOFError("EOF when reading a line")
        return line.removesuffix("\n")

    def getpass(self, prompt: str = "", stream: Any = None, *, echo_char: Any = None) -> str:
        """getpass.getpass(): reads the run's stdin as input() does."""
        return self.raw_input(prompt)


def _is_run(request: Any) -> bool:
    """Whether a request is one of the service's own."""
    return METADATA_KEY in request.get("metadata", {})


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables; afterwards each is what it was before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

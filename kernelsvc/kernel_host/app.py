"""Builds and serves one kernel in the calling process, on a connection file."""

import asyncio
import atexit
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import zmq
from ipykernel.control import ControlThread
from ipykernel.displayhook import ZMQDisplayHook
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.jsonutil import json_default
from jupyter_client.session import orjson_packer
from traitlets.config import Config

from kernelsvc.kernel_host.capture import spare_descriptors
from kernelsvc.kernel_host.children import keep_from_waits
from kernelsvc.kernel_host.imports import import_from_workspace, reseed
from kernelsvc.kernel_host.iopub import IOThread
from kernelsvc.kernel_host.kernel import Kernel, exit_status
from kernelsvc.kernel_host.labels import follow_threads
from kernelsvc.kernel_host.memory.state import Baseline
from kernelsvc.kernel_host.session import KernelSession
from kernelsvc.kernel_host.snapshot import Promoted, Snapshots
from kernelsvc.kernel_host.streams import Output, install

IOPUB_HIGH_WATER = 64
LINGER_MS = 1000


os_exit = os._exit

_of_processes_before: list[Any] = []
_OF_A_PROCESS = (
    *("context", "io_loop", "iopub_thread", "control_thread"),
    *("shell_socket", "control_socket", "stdin_socket", "debugpy_socket"),
)
_STREAMS_OF_A_PROCESS = ("shell_stream", "control_stream", "debugpy_stream")


class KernelApp(IPKernelApp):
    """ipykernel's application, with our kernel, our streams and no parent poller."""

    kernel_class = Kernel

    def _session_default(self) -> KernelSession:
        return KernelSession(parent=self)

    def parse_command_line(self, argv: Any = None) -> None:
        """None: there is no command line, and to build a parser for one takes its time."""

    is_resumed = False
    """Whether it has served in a process before, of which this one was a snapshot."""

    def resume(self, connection_file: str) -> None:
        """Serve another connection, in a process that was a snapshot: the rest is there.

        What the process before had of ZeroMQ and of event loops is kept for ever: it is that
        process's to end.
        """
        _of_processes_before.extend(getattr(self, name) for name in _OF_A_PROCESS)
        _of_processes_before.extend(getattr(self.kernel, name) for name in _STREAMS_OF_A_PROCESS)
        self.is_resumed = True
        self.context = None
        for channel in ("shell", "iopub", "stdin", "control", "hb"):
            setattr(self, f"{channel}_port", 0)
        self.connection_file = connection_file
        self.session.pid = os.getpid()
        self.init_connection_file()
        self.init_sockets()
        self.init_io()
        self.init_signal()
        self.control_thread.start()
        self.kernel.resume(self)

    def is_own_socket(self, address: str) -> bool:
        """Whether a unix socket at that address is one of the kernel's."""
        return address.startswith(f"{self.ip}-")

    def init_sockets(self) -> None:
        """The sockets. They are closed at exit, once, behind what the code wants to say then."""
        super().init_sockets()
        atexit.unregister(self.close)
        if not self.is_resumed:
            atexit.register(self._close_last)

    def _close_last(self) -> None:
        self.close()

    def init_control(self, context: Any) -> None:
        """The control channel; and none of the threads for shells beside the main one.

        Nobody opens one here, and every request and reply would go through two more sockets. Nor
        is a socket of the debugger's connected to the shell's: ZeroMQ would do that in a thread of
        its own, at any later time, and the end that connects has no address by which it could be
        told from the code's.
        """
        self.control_socket = context.socket(zmq.ROUTER)
        self.control_socket.linger = LINGER_MS
        self.control_socket.router_handover = 1
        self.control_port = self._bind_socket(self.control_socket, self.control_port)
        self.debugpy_socket = context.socket(zmq.STREAM)
        self.debugpy_socket.linger = LINGER_MS
        self.control_thread = ControlThread(daemon=True)

    def init_heartbeat(self) -> None:
        """None: whether the kernel lives, its host says; nobody connects to that channel."""

    def init_poller(self) -> None:
        """None: the kernel host ends its kernel (PR_SET_PDEATHSIG), no thread needs to look."""

    def init_iopub(self, context: Any) -> None:
        """An iopub socket that waits for a slow reader instead of dropping messages."""
        context, before = zmq.Context(), self.iopub_socket
        self.iopub_socket = context.socket(zmq.XPUB)
        self.iopub_socket.linger = LINGER_MS
        self.iopub_socket.sndhwm = IOPUB_HIGH_WATER
        self.iopub_socket.xpub_nodrop = 1
        self.iopub_port = self._bind_socket(self.iopub_socket, self.iopub_port)
        self.iopub_thread = IOThread(context, self.iopub_socket, self.session)
        if self.is_resumed:
            # The code may have it, and what displays.
            before.io_thread = self.iopub_thread
            self.iopub_thread.background_socket = before
        else:
            self.configure_tornado_logger()
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_io(self) -> None:
        """Streams of ours in place of ipykernel's."""
        io_thread = self.iopub_thread
        way_out = {
            "schedule": io_thread.schedule,
            "call_later": io_thread.io_loop.call_later,
            "io_thread": io_thread.is_current,
        }
        if self.is_resumed:
            Kernel.output.resume(**way_out)
            return
        self.session.pack = pack
        output = Output(self.session, self.iopub_socket, **way_out)
        Kernel.output = output
        self.displayhook = sys.displayhook = ZMQDisplayHook(self.session, self.iopub_socket)
        install(output)
        atexit.register(output.flush)
        self.patch_io()

    def init_kernel(self) -> None:
        """The kernel, and from here on threads that print for the run that started them."""
        super().init_kernel()
        follow_threads(self.kernel)
        keep_from_waits()
        os._exit = self._leave

    def _leave(self, status: int) -> NoReturn:
        """os._exit(): ends this very process, but not before its output has been said."""
        if not Kernel.output.forked:
            Kernel.output.flush()
            self.iopub_thread.finish()
        os_exit(status)


def pack(message: Any) -> bytes:
    """JSON for a message part, whatever text is in it.

    jupyter_client's packers raise on lone surrogates, and the message (a reply even) is gone; here
    they travel as escapes.
    """
    try:
        return orjson_packer(message)
    except UnicodeEncodeError:
        return json.dumps(message, default=json_default, ensure_ascii=True).encode()


def run_kernel(connection_file: str, announce: Callable[[], None], keeper: socket.socket) -> int:
    """Serve a kernel until it is shut down or its code ends the process; returns the exit status.

    `announce` is called once the sockets are bound and requests can be sent; the `keeper` of the
    kernel's snapshots is at the other end of that socket.
    """
    config = Config()
    config.IPKernelApp.log_level = logging.CRITICAL
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    # Its banner has a tip of the day, and to pick one takes a random number of the code's.
    config.InteractiveShell.enable_tip = False
    asyncio.set_event_loop(asyncio.new_event_loop())
    app = KernelApp.instance(connection_file=connection_file, config=config)
    app.initialize([])
    # traitlets leaves it to the handler what is logged; until there, every message is written out.
    app.log.setLevel(logging.CRITICAL)
    reseed()
    import_from_workspace()
    Kernel.baseline = Baseline.now()
    output = Kernel.output
    app.kernel.snapshots = Snapshots(keeper, output.abandon, output.pass_over, app.is_own_socket)
    announce()
    try:
        return _serve(app)
    finally:
        atexit._run_exitfuncs()


def _serve(app: KernelApp) -> int:
    """Serve requests: this process's, and those of one that was a snapshot of it."""
    while True:
        try:
            app.start()
        except Promoted as promoted:
            order = promoted
        except SystemExit as stop:
            return exit_status(stop)
        else:
            return 0
        with spare_descriptors():
            asyncio.set_event_loop(asyncio.new_event_loop())
            app.resume(order.connection_file)
        order.begin()
        del order

"""Builds and serves one kernel in the calling process, on a connection file."""

import asyncio
import atexit
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ipykernel.displayhook import ZMQDisplayHook
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

from kernelsvc.kernel_host.capture import spare_descriptors
from kernelsvc.kernel_host.channels.channel import Router
from kernelsvc.kernel_host.channels.control import Control
from kernelsvc.kernel_host.channels.iopub import IOThread
from kernelsvc.kernel_host.children import keep_from_waits
from kernelsvc.kernel_host.imports import import_from_workspace, reseed
from kernelsvc.kernel_host.kernel import Kernel, exit_status
from kernelsvc.kernel_host.labels import follow_threads
from kernelsvc.kernel_host.loops import KernelLoop
from kernelsvc.kernel_host.memory.state import Baseline
from kernelsvc.kernel_host.session import KernelSession, pack
from kernelsvc.kernel_host.snapshot import Promoted, Snapshots
from kernelsvc.kernel_host.streams import Output, install

_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")

os_exit = os._exit


class KernelApp(IPKernelApp):
    """ipykernel's application, with our kernel, our channels and streams, and no parent poller."""

    kernel_class = Kernel

    def _session_default(self) -> KernelSession:
        return KernelSession(parent=self)

    def parse_command_line(self, argv: Any = None) -> None:
        """None: there is no command line, and to build a parser for one takes its time."""

    main_loop: KernelLoop
    is_resumed = False
    """Whether it has served in a process before, of which this one was a snapshot."""

    def leave(self) -> set[int]:
        """In a fork of the kernel: free what it has of its clients; the descriptors to keep.

        Those are what its event loop has in place of the kernel's, until it is closed.
        """
        for channel in (self.shell_channel, self.control_channel, self.iopub_thread):
            channel.leave()
        Kernel.output.abandon()
        return self.main_loop.leave()

    def resume(self, connection_file: str) -> None:
        """Serve another connection, in a process that was a snapshot: the rest is there."""
        self.main_loop.close()
        self.is_resumed = True
        self.main_loop = KernelLoop()
        asyncio.set_event_loop(self.main_loop)
        for channel in _CHANNELS:
            setattr(self, f"{channel}_port", 0)
        self.connection_file = connection_file
        self.session.pid = os.getpid()
        self.init_connection_file()
        self.init_sockets()
        self.init_io()
        self.init_signal()
        self.kernel.resume()

    def is_own_socket(self, address: str) -> bool:
        """Whether a unix socket at that address is one of the kernel's."""
        return address.startswith(f"{self.ip}-")

    def init_sockets(self) -> None:
        """The channels that there are clients for.

        No stdin: a run's is in its request. No heartbeat: whether the kernel lives, its host says.
        """
        if not self.is_resumed:
            self.shell_channel, self.control_channel = Router(), Control()
            self.iopub_thread = IOThread(self.session)
            self.iopub_socket = self.iopub_thread.background_socket
            self.configure_tornado_logger()
            # Closed at exit, once, behind what the code wants to say then.
            atexit.register(self.close)
        self.shell_channel.open(f"{self.ip}-{self.shell_port}")
        self.control_channel.open(f"{self.ip}-{self.control_port}")
        self.iopub_thread.open(f"{self.ip}-{self.iopub_port}")

    def close(self) -> None:
        """Say what is left to say."""
        self.reset_io()
        self.iopub_thread.finish()

    def init_heartbeat(self) -> None:
        """None."""

    def init_poller(self) -> None:
        """None: the kernel host ends its kernel (PR_SET_PDEATHSIG), no thread needs to look."""

    def init_io(self) -> None:
        """Streams of ours in place of ipykernel's."""
        if self.is_resumed:
            Kernel.output.resume()
            return
        self.session.pack = pack
        io_thread = self.iopub_thread
        output = Output(
            self.session,
            self.iopub_socket,
            schedule=io_thread.schedule,
            call_later=io_thread.call_later,
            io_thread=io_thread.is_current,
        )
        Kernel.output = output
        self.displayhook = sys.displayhook = ZMQDisplayHook(self.session, self.iopub_socket)
        install(output)
        atexit.register(output.flush)
        self.patch_io()

    def init_kernel(self) -> None:
        """The kernel, and from here on threads that print for the run that started them."""
        self.kernel = Kernel.instance(
            parent=self,
            session=self.session,
            shell_stream=self.shell_channel,
            control_stream=self.control_channel,
            iopub_thread=self.iopub_thread,
            iopub_socket=self.iopub_socket,
            log=self.log,
            profile_dir=self.profile_dir,
            user_ns=self.user_ns,
        )
        self.kernel.record_ports({f"{name}_port": port for name, port in self._ports.items()})
        self.displayhook.get_execution_count = lambda: self.kernel.execution_count
        follow_threads(self.kernel)
        keep_from_waits()
        os._exit = self._leave

    def _leave(self, status: int) -> NoReturn:
        """os._exit(): ends this very process, but not before its output has been said."""
        try:
            if not Kernel.output.forked:
                Kernel.output.flush()
                self.iopub_thread.finish()
        finally:
            # Whatever it is that the code has broken.
            os_exit(status)


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
    loop = KernelLoop()
    asyncio.set_event_loop(loop)
    app = KernelApp.instance(connection_file=connection_file, config=config)
    app.main_loop = loop
    app.initialize([])
    # traitlets leaves it to the handler what is logged; until there, every message is written out.
    app.log.setLevel(logging.CRITICAL)
    reseed()
    import_from_workspace()
    Kernel.baseline = Baseline.now()
    output = Kernel.output
    app.kernel.snapshots = Snapshots(keeper, app.leave, output.pass_over, app.is_own_socket)
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
            app.resume(order.connection_file)
        order.begin()
        del order

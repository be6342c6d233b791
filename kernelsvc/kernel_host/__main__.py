"""`python -m kernelsvc.kernel_host [--preload=MODULE]... [--zygote=DIRECTORY] FD [OFFER]`.

Serves the socket FD: the control socket, or, for the zygote, that of its orders. The zygote's
DIRECTORY goes when it ends, since a service that was killed removes nothing. Over the socket OFFER
a listener goes to the proxy that is the session's way to the internet. Kernels have the modules
that are preloaded at once.
"""

import argparse
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from kernelsvc.kernel_host.adapters.serving import run_adapter
from kernelsvc.kernel_host.app import run_kernel
from kernelsvc.kernel_host.egress import offer_listener, proxy_environment
from kernelsvc.kernel_host.host import Host
from kernelsvc.kernel_host.imports import preload
from kernelsvc.kernel_host.zygote import Zygote


def run(
    adapter: list[str],
    connection_file: str,
    announce: Callable[[int | None], None],
    keeper: socket.socket,
) -> int:
    """Serve a kernel: Python's, or another by its adapter, of which there are no snapshots."""
    if adapter:
        keeper.close()
        run_adapter(adapter, connection_file, announce)
    return run_kernel(connection_file, lambda: announce(None), keeper)


def run_host(control: socket.socket, offer: int | None, dial: socket.socket | None = None) -> None:
    """Serve kernels to the service at the other end of `control`; in a sandbox, with a `dial`."""
    environment = {} if offer is None else proxy_environment(offer_listener(offer))
    Host(control, run, environment, dial).serve()


def run_sandboxed_host(control: socket.socket, dial: socket.socket, offer: int | None) -> None:
    """The same in a sandbox, where a directory of what has been preloaded may not be yet."""
    if (directory := os.environ.get("MPLCONFIGDIR")) is not None:
        Path(directory).mkdir(parents=True, exist_ok=True)
    run_host(control, offer, dial)


parser = argparse.ArgumentParser(prog="kernelsvc.kernel_host")
parser.add_argument("--preload", action="append", default=[])
parser.add_argument("--zygote", metavar="DIRECTORY")
parser.add_argument("control", type=int)
parser.add_argument("offer", type=int, nargs="?")
given = parser.parse_args()
preload(given.preload)
with socket.socket(fileno=given.control) as control:
    if given.zygote is not None:
        Zygote(control, run_sandboxed_host).serve()
        shutil.rmtree(given.zygote, ignore_errors=True)
    else:
        run_host(control, given.offer)

"""`python -m kernelsvc.kernel_host [--preload=MODULE]... FD [OFFER]`: serve the socket FD.

FD is the descriptor of the control socket. Over the socket OFFER a listener goes to the proxy that
is the session's way to the internet. Kernels have the modules that are preloaded at once.
"""

import argparse
import socket

from kernelsvc.kernel_host.app import run_kernel
from kernelsvc.kernel_host.egress import offer_listener, proxy_environment
from kernelsvc.kernel_host.host import Host
from kernelsvc.kernel_host.imports import preload

parser = argparse.ArgumentParser(prog="kernelsvc.kernel_host")
parser.add_argument("--preload", action="append", default=[])
parser.add_argument("control", type=int)
parser.add_argument("offer", type=int, nargs="?")
given = parser.parse_args()
preload(given.preload)
environment = {} if given.offer is None else proxy_environment(offer_listener(given.offer))
with socket.socket(fileno=given.control) as control:
    Host(control, run_kernel, environment).serve()

"""`python -m kernelsvc.kernel_host FD [OFFER]`: serve the control socket that is descriptor FD.

Over the socket OFFER a listener goes to the proxy that is the session's way to the internet.
"""

import socket
import sys

from kernelsvc.kernel_host.app import run_kernel
from kernelsvc.kernel_host.egress import offer_listener, proxy_environment
from kernelsvc.kernel_host.host import Host
from kernelsvc.kernel_host.imports import preload

preload()
environment = proxy_environment(offer_listener(int(sys.argv[2]))) if len(sys.argv) > 2 else {}
with socket.socket(fileno=int(sys.argv[1])) as control:
    Host(control, run_kernel, environment).serve()

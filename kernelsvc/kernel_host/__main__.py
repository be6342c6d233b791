"""`python -m kernelsvc.kernel_host FD`: serve the control socket that is file descriptor FD."""

import socket
import sys

from kernelsvc.kernel_host.app import run_kernel
from kernelsvc.kernel_host.host import Host

with socket.socket(fileno=int(sys.argv[1])) as control:
    Host(control, run_kernel).serve()

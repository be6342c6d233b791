"""The inside's part in reaching a server of the session's: open a socket to it, and pass it on.

The sandbox has a network namespace of its own, and a socket that is made there stays there wherever
its descriptor goes. So the service asks for a port, and the host begins to connect to it and hands
the socket over at once: whether and when the server takes it is for the service to wait for, never
for the host. They talk over a socket pair that nobody else has, or can get at: not the kernel, nor
what it starts, as the host closes it in what it forks, and none of them can look into the host.
"""

import contextlib
import errno
import socket

from kernelsvc.kernel_host.wire import DIAL, DIALLED

_LOOPBACK = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}


def answer_dial(dial: socket.socket) -> bool:
    """Answer one question that has come; False where nobody asks any more."""
    try:
        asked = dial.recv(DIAL.size)
    except OSError:
        return False
    if len(asked) < DIAL.size:
        return False
    number, version, port = DIAL.unpack(asked)
    family, address = _LOOPBACK[version]
    code, opened = 0, None
    try:
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        code = opened.connect_ex((address, port))
    except OSError as error:
        code = error.errno or errno.EIO
    descriptors = []
    if opened is not None and code in (0, errno.EINPROGRESS):
        code, descriptors = 0, [opened.fileno()]
    # Where the service takes no answers any more, it can wait for this one in vain.
    with contextlib.suppress(OSError):
        socket.send_fds(dial, [DIALLED.pack(number, code)], descriptors, socket.MSG_DONTWAIT)
    if opened is not None:
        opened.close()
    return True

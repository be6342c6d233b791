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
    asked = dial.recv(DIAL.size)
    if len(asked) < DIAL.size:
        return False
    version, port = DIAL.unpack(asked)
    family, address = _LOOPBACK[version]
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as opened:
            if (code := opened.connect_ex((address, port))) not in (0, errno.EINPROGRESS):
                return _answer(dial, code, [])
            return _answer(dial, 0, [opened.fileno()])
    except OSError as error:
        return _answer(dial, error.errno or errno.EIO, [])


def _answer(dial: socket.socket, code: int, descriptors: list[int]) -> bool:
    with contextlib.suppress(BlockingIOError):
        # Where the service takes no answers, it can wait for this one in vain.
        socket.send_fds(dial, [DIALLED.pack(code)], descriptors, socket.MSG_DONTWAIT)
    return True

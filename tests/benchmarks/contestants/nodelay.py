"""Run a server of Tornado's with TCP_NODELAY on its websockets.

`python -m tests.benchmarks.contestants.nodelay MODULE ARGUMENT...` does what `python -m MODULE
ARGUMENT...` does; only, the small messages of a websocket do not wait for acknowledgements of those
before them (Nagle's algorithm), which costs peers 40 ms a run as they are.
"""

import runpy
import sys

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream


def set_nodelay_on_websockets() -> None:
    """From now on, a connection that becomes a websocket has TCP_NODELAY."""
    detach = HTTP1Connection.detach

    def detach_with_nodelay(connection: HTTP1Connection) -> IOStream:
        stream = detach(connection)
        stream.set_nodelay(True)
        return stream

    setattr(HTTP1Connection, "detach", detach_with_nodelay)  # noqa: B010


if __name__ == "__main__":
    set_nodelay_on_websockets()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

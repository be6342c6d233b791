"""Where there is no sandbox: on which ports a session's own processes listen.

A port of the machine is anybody's there. Who asks for one through a session gets it only where a
process of that session listens on it: never the service's own, or another program's.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kernelsvc.sandbox.open_files import descendants

_LISTEN = "0A"
_LOOPBACK = {
    "tcp": ("127.0.0.1", {"00000000", "0100007F"}),
    "tcp6": ("::1", {"0" * 32, "00000000000000000000000001000000"}),
}


def listening_addresses(root: int, port: int) -> list[str]:
    """The loopback addresses at which a process from `root` downwards listens on `port`; blocks.

    As /proc shows it, on a little-endian machine.
    """
    sockets = set(_sockets(root))
    return [
        address
        for table, (address, wanted) in _LOOPBACK.items()
        if any(inode in sockets for inode in _listeners(table, wanted, port))
    ]


def _listeners(table: str, addresses: set[str], port: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            address, _, number = local.partition(":")
            if state == _LISTEN and int(number, 16) == port and address in addresses:
                yield rest[5]


def _sockets(root: int) -> Iterator[str]:
    for pid in descendants(root):
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    kind, _, inode = Path(f"/proc/{pid}/fd/{name}").readlink().name.partition(":")
                    if kind == "socket":
                        yield inode.strip("[]")

"""`python -P -m kernelsvc.sandbox.egress CONTROL_FD OFFER_FD`: one session's proxy.

Theory of operation. CONTROL is a socket pair with the service: the policy comes in as one line of
JSON, `{"ready": true}` or `{"error": "..."}` goes out, and its end of file is the order to go.
OFFER is a socket pair with the inside of the sandbox: one listening socket comes in as a
descriptor. A socket stays in the network namespace that it was made in, so connections are accepted
in the sandbox's, which has nothing but a loopback, and made in this process's. Nothing that the
inside sends on OFFER is believed, and after the listener nothing is read.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from ipaddress import IPv4Address

from kernelsvc.sandbox.egress.hardening import harden
from kernelsvc.sandbox.egress.own_addresses import is_own_address
from kernelsvc.sandbox.egress.policy import Policy
from kernelsvc.sandbox.egress.server import BadListener, Server, check_listener

_LONGEST_POLICY = 1 << 20


async def run(control: socket.socket, offer: socket.socket) -> None:
    """Serve until CONTROL ends or SIGTERM comes."""
    loop = asyncio.get_running_loop()
    control.setblocking(False)
    offer.setblocking(False)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    policy = Policy.from_json(await _read_line(control))
    harden(policy.limits.connections)
    if not is_own_address(IPv4Address("127.0.0.1")):
        raise OSError("the kernel does not say which addresses are this host's")
    serving = asyncio.create_task(_serve(control, offer, policy))
    ending = [
        serving,
        asyncio.create_task(_until_hung_up(control)),
        asyncio.create_task(stop.wait()),
    ]
    await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving


async def _serve(control: socket.socket, offer: socket.socket, policy: Policy) -> None:
    with offer:
        listener = await _take_listener(offer)
    check_listener(listener)
    listener.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(control, b'{"ready": true}\n')
    await Server(listener, policy).serve()


async def _read_line(control: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        data = await asyncio.get_running_loop().sock_recv(control, 65536)
        if not data or len(line) > _LONGEST_POLICY:
            raise EOFError("no policy came")
        line += data
    return line


async def _take_listener(offer: socket.socket) -> socket.socket:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(offer, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(offer)
    _, descriptors, _, _ = socket.recv_fds(offer, 1, 1)
    if len(descriptors) != 1:
        raise BadListener("the inside ended without handing over a listening socket")
    try:
        return socket.socket(fileno=descriptors[0])
    except OSError as error:
        raise BadListener("expected a socket") from error


async def _until_hung_up(control: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(control, 65536):
            pass


def main() -> None:
    """Run to the end; the status is 0 for an ordinary one."""
    control, offer = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    status = 0
    try:
        asyncio.run(run(control, offer))
    except Exception as error:  # noqa: BLE001 - whatever it is, the service hears of it
        status = 1
        report = json.dumps({"error": f"{type(error).__name__}: {error}"[:500]})
        with contextlib.suppress(OSError):
            control.sendall(report.encode() + b"\n", socket.MSG_DONTWAIT)
    # Not `sys.exit`: it would wait for the threads that are looking names up.
    os._exit(status)


main()

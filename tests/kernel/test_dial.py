"""The service's end of reaching servers inside: what a host may say that is not to be trusted."""

import asyncio
import os
import socket
import threading

import pytest

from kernelsvc.kernel_host.dial import answer_dial
from kernelsvc.kernel_host.wire import DIAL, DIALLED
from kernelsvc.kernels.dial import Dial


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


async def asked(theirs):
    """The number of the next question."""
    theirs.setblocking(False)
    return DIAL.unpack(await asyncio.get_running_loop().sock_recv(theirs, 64))[0]


async def test_a_host_opens_what_it_is_asked_for_and_leaves_when_nobody_asks(listener):
    dial, theirs = Dial.make()

    def serve():
        while answer_dial(theirs):
            pass

    host = threading.Thread(target=serve)
    host.start()
    try:
        port = listener.getsockname()[1]
        for connected in await asyncio.gather(*(dial.connect(port) for _ in range(20))):
            assert connected.getpeername() == ("127.0.0.1", port)
            connected.close()
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as by_ipv6:
            port = by_ipv6.getsockname()[1]
            (await dial.connect(port)).close()
        with pytest.raises(ConnectionRefusedError):
            await dial.connect(port)
    finally:
        dial.close()
        host.join(10)
    assert not host.is_alive()
    theirs.close()


async def test_answers_go_to_who_asked_in_whatever_order_they_come(listener):
    dial, theirs = Dial.make()
    with theirs, socket.create_connection(listener.getsockname()) as opened:
        first, second = (asyncio.ensure_future(dial._open(4, port)) for port in (1, 2))
        numbers = [await asked(theirs), await asked(theirs)]
        theirs.send(DIALLED.pack(numbers[1], 111))
        with pytest.raises(ConnectionRefusedError):
            await second
        socket.send_fds(theirs, [DIALLED.pack(numbers[0], 0)], [opened.fileno()])
        assert (await first).getpeername() == listener.getsockname()
        first.result().close()
        dial.close()


async def test_what_is_no_tcp_socket_or_not_asked_for_is_closed_and_nonsense_hangs_up(listener):
    dial, theirs = Dial.make()
    before = len(os.listdir("/proc/self/fd"))
    with theirs:
        with (
            socket.socket(socket.AF_UNIX) as unix,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
            open(os.devnull) as file,
            socket.create_connection(listener.getsockname()) as tcp,
        ):
            for handed in (unix, udp, file):
                waiting = asyncio.ensure_future(dial._open(4, 1))
                number = await asked(theirs)
                socket.send_fds(theirs, [DIALLED.pack(number + 1, 0)], [tcp.fileno()])
                socket.send_fds(theirs, [DIALLED.pack(number, 0)], [handed.fileno()])
                with pytest.raises(OSError, match="Success"):
                    await waiting
            gone, waiting = (asyncio.ensure_future(dial._open(4, 1)) for _ in range(2))
            number = await asked(theirs)
            gone.cancel()
            await asyncio.wait({gone})
            socket.send_fds(theirs, [DIALLED.pack(number, 0)], [tcp.fileno()])
            theirs.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                await waiting
        assert len(os.listdir("/proc/self/fd")) == before - 1
    with pytest.raises(OSError, match="descriptor"):
        await dial.connect(1)

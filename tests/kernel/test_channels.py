"""A kernel's channels as their clients find them: those that use libzmq, and those that do not."""

import contextlib
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import pytest
import zmq

from kernelsvc.kernel_host.channels.channel import Publisher, Router

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
SIZES = (0, 1, 255, 256, 70_000, 5_000_000)


@pytest.fixture
def place():
    """A directory for sockets, whose paths must be short."""
    directory = tempfile.mkdtemp(prefix="ks")
    yield Path(directory)
    shutil.rmtree(directory)


@pytest.fixture
def served(place):
    """Serves a channel by a thread, until the test is over; returns its address."""
    ends = []
    is_over = threading.Event()

    def serve(channel):
        path = str(place / f"s-{len(ends)}")
        channel.open(path)
        thread = threading.Thread(target=turn, args=(channel,))
        thread.start()
        ends.append((channel, thread))
        return path

    def turn(channel):
        poll = zmq.Poller()
        poll.register(channel.fileno(), zmq.POLLIN)
        while not is_over.is_set():
            if poll.poll(50):
                channel.turn()

    yield serve
    is_over.set()
    for channel, thread in ends:
        thread.join()
        channel.leave()


@pytest.fixture
def connect():
    """Makes sockets of libzmq that are connected to an address."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())

        def make(kind, path, **options):
            made = stack.enter_context(context.socket(kind))
            made.linger, made.rcvtimeo = 0, 20_000
            for name, value in options.items():
                setattr(made, name, value)
            made.connect(f"ipc://{path}")
            return made

        yield make


@pytest.fixture
def echo(served):
    """The address of a router that sends back what it gets."""
    router = Router()
    router.on_recv(router.send_multipart)
    return served(router)


@contextlib.contextmanager
def raw(path, *said):
    """A connection that says this, of bytes."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(path)
        for data in said:
            peer.sendall(data)
        yield peer


def read(peer, size):
    """So many bytes, or those that there are until the other end hangs up."""
    data = b""
    while len(data) < size and (more := peer.recv(size - len(data))):
        data += more
    return data


def test_each_client_gets_its_own_answers_whatever_their_size_and_its_name(echo, connect):
    named = [connect(zmq.DEALER, echo, identity=name) for name in (b"a", b"b" * 255)]
    clients = [*named, connect(zmq.DEALER, echo), connect(zmq.DEALER, echo)]
    sent = {}
    for number, client in enumerate(clients):
        for size in SIZES:
            sent[number, size] = [b"%d" % number, b"", bytes([number]) * size, b"end"]
            client.send_multipart(sent[number, size])
    for number, client in enumerate(clients):
        for size in SIZES:
            assert client.recv_multipart() == sent[number, size]


def test_a_client_that_connects_again_takes_over_its_name(echo, connect):
    first = connect(zmq.DEALER, echo, identity=b"name")
    first.send(b"1")
    assert first.recv() == b"1"
    second = connect(zmq.DEALER, echo, identity=b"name")
    second.send(b"2")
    assert second.recv() == b"2"


def test_a_clients_bytes_may_come_one_by_one_and_its_pings_are_answered(echo):
    ping = b"\x04\x0b\x04PING\0\x64abcd"
    said = GREETING + READY + ping + b"\x01\x01a\x00\x02bc"
    with raw(echo, *(said[at : at + 1] for at in range(len(said)))) as peer:
        assert read(peer, 64)[10:16] == b"\x03\0NULL"
        ready = read(peer, 2 + 28)
        assert ready == b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06ROUTER"
        assert read(peer, 11) == b"\x04\x09\x04PONGabcd"
        assert read(peer, 7) == b"\x01\x01a\x00\x02bc"


STRANGE = {
    "another protocol": b"GET / HTTP/1.1\r\nAccept: text/html\r\n" + 9 * b"A: b\r\n" + b"\r\n",
    "an older version": GREETING[:10] + b"\x02" + GREETING[11:],
    "another mechanism": GREETING.replace(b"NULL\0", b"PLAIN"),
    "an error": GREETING + b"\x04\x07\x05ERROR\0",
    "a property beyond its end": GREETING + READY.replace(b"\0\0\0\x06", b"\0\0\xff\x06"),
    "no name of a command": GREETING + b"\x04\x00",
}


@pytest.mark.parametrize("said", STRANGE.values(), ids=STRANGE)
def test_who_speaks_otherwise_is_hung_up_on_and_nobody_else(echo, connect, said):
    client = connect(zmq.DEALER, echo)
    client.send(b"before")
    assert client.recv() == b"before"
    with raw(echo, said) as peer, contextlib.suppress(ConnectionResetError):
        read(peer, 1000)
    client.send(b"behind")
    assert client.recv() == b"behind"


def test_a_client_that_reads_nothing_does_not_fill_the_memory_and_holds_nobody_up(echo, connect):
    message = b"\x02" + (1 << 16).to_bytes(8) + bytes(1 << 16)
    with raw(echo, GREETING + READY, *(message for _ in range(3000))) as peer:
        client = connect(zmq.DEALER, echo)
        client.send(b"here")
        assert client.recv() == b"here"
        read(peer, 64 + 2 + 28)
        answered = len(read(peer, 1000 * len(message))) // len(message)
        peer.sendall(b"\x00\x03end")
        while not (last := read(peer, 5)).endswith(b"end"):
            assert len(last + read(peer, len(message) - 5)) == len(message)
            answered += 1
    assert 1000 <= answered < 1100


@pytest.fixture
def publish(place):
    """A publisher, its address and what waits until that many have subscribed."""
    welcomed = []
    publisher = Publisher(welcomed.append)
    publisher.open(str(place / "p"))

    def until_subscribed(count):
        poll = zmq.Poller()
        poll.register(publisher.fileno(), zmq.POLLIN)
        while len(welcomed) < count:
            assert poll.poll(20_000)
            publisher.turn()

    yield publisher, str(place / "p"), until_subscribed
    publisher.leave()


def test_subscribers_get_what_they_asked_for_and_are_welcomed(publish, connect):
    publisher, path, until_subscribed = publish
    every, some = connect(zmq.SUB, path), connect(zmq.SUB, path)
    every.subscribe(b"")
    for topic in (b"a", b"b"):
        some.subscribe(topic)
    some.unsubscribe(b"b")
    some.subscribe(b"c")
    until_subscribed(4)
    topics = (b"a1", b"b1", b"c1", b"d1", b"a2")
    for topic in topics:
        assert publisher.send([topic, memoryview(b"x")])
    assert [every.recv_multipart() for _ in topics] == [[topic, b"x"] for topic in topics]
    assert [some.recv_multipart()[0] for _ in range(3)] == [b"a1", b"c1", b"a2"]


def test_a_slow_subscriber_is_waited_for_and_gets_everything(publish, connect):
    publisher, path, until_subscribed = publish
    reader = connect(zmq.SUB, path, rcvhwm=2)
    reader.subscribe(b"")
    until_subscribed(1)
    count = fill(publisher, size=65_537)
    got = []
    reading = threading.Thread(
        target=lambda: got.extend(len(reader.recv()) for _ in range(count + 300))
    )
    reading.start()
    for _ in range(300):
        publisher.wait(lambda: False)
        publisher.send([bytes(65_537)])
    publisher.wait(lambda: False)
    reading.join(20)
    assert got == [65_537] * (count + 300)


def test_a_subscriber_that_reads_no_more_is_waited_for_until_the_kernel_ends(publish):
    publisher, path, until_subscribed = publish
    with raw(path, GREETING + READY + b"\x00\x01\x01"):
        until_subscribed(1)
        fill(publisher, size=65_537)
        asked = iter([False, True])
        publisher.wait(lambda: next(asked))
        assert next(asked, None) is None
        assert not publisher.is_behind
        assert publisher.send([b"nobody is there"])


def fill(publisher, size):
    """Send messages of that size until the reader is behind; how many."""
    count = 1
    while publisher.send([bytes(size)]):
        count += 1
    return count

"""A channel takes every message, in order, however the socket was used meanwhile."""

import asyncio
from itertools import pairwise

import pytest
import zmq

from kernelsvc.kernels.channel import Channel, Readers


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.fixture
def peer(context):
    with context.socket(zmq.DEALER) as peer:
        peer.set_hwm(0)
        peer.bind("inproc://peer")
        yield peer


@pytest.fixture
def open_channel(context, peer):
    channels = []

    def connect(take, readers=None):
        socket = context.socket(zmq.DEALER)
        socket.set_hwm(0)
        socket.connect("inproc://peer")
        channels.append(Channel(socket, take, readers or Readers()))
        return channels[-1]

    yield connect
    for channel in channels:
        channel.close()


class Taken(list[list[bytes]]):
    """What a channel has taken; `wait_for` a number of messages."""

    def __init__(self):
        self.changed = asyncio.Event()

    def take(self, frames):
        self.append(frames)
        self.changed.set()

    async def wait_for(self, count):
        async with asyncio.timeout(10):
            while len(self) < count:
                self.changed.clear()
                await self.changed.wait()


class CountedTime:
    """An event loop on whose clock each look takes ten microseconds, on any machine."""

    def __init__(self, loop):
        self._loop = loop
        self._looks = 0

    def time(self):
        self._looks += 1
        return self._looks * 1e-5

    def __getattr__(self, name):
        return getattr(self._loop, name)


async def test_a_flood_is_taken_in_order_and_lets_others_have_their_turn(peer, open_channel):
    taken, turns = Taken(), []

    def turn():
        turns.append(len(taken))
        if len(taken) < 1000:
            asyncio.get_running_loop().call_soon(turn)

    channel = open_channel(taken.take)
    channel._loop = CountedTime(channel._loop)
    for number in range(1000):
        peer.send_multipart([b"%d" % number])
    turn()
    await taken.wait_for(1000)
    assert taken == [[b"%d" % number] for number in range(1000)]
    assert max(after - before for before, after in pairwise(turns)) <= 30


async def test_a_flood_pauses_while_others_are_in_use_and_is_complete(peer, open_channel):
    readers, taken = Readers(), Taken()
    open_channel(taken.take, readers)
    neighbour = open_channel(lambda frames: None, readers)
    loop, turns = asyncio.get_running_loop(), []

    def use_neighbour():
        turns.append(len(taken))
        readers.note(neighbour, loop.time())
        if len(taken) < 1000:
            loop.call_soon(use_neighbour)

    for number in range(2000):
        # The two take turns at what the peer sends.
        peer.send_multipart([b"%d" % number])
    use_neighbour()
    await taken.wait_for(1000)
    assert taken == [[b"%d" % number] for number in range(0, 2000, 2)]
    paused = [before == after for before, after in pairwise(turns)]
    assert sum(paused) > len(paused) / 2


def test_what_was_read_beside_a_channel_is_what_another_has_read():
    readers, one, two = Readers(), object(), object()
    assert readers.last_beside(one) < 0
    readers.note(one, 1.0)
    readers.note(one, 2.0)
    assert readers.last_beside(one) < 0
    assert readers.last_beside(two) == 2.0
    readers.note(two, 3.0)
    readers.note(two, 4.0)
    assert (readers.last_beside(one), readers.last_beside(two)) == (4.0, 2.0)


async def test_a_message_that_comes_while_one_is_sent_is_taken(peer, open_channel):
    taken = Taken()
    channel = open_channel(taken.take)
    for number in range(1, 301):
        peer.send_multipart([b"come"])
        # Sending handles what has arrived, and with it the signal that something has.
        channel.send([b"go"])
        await taken.wait_for(number)


async def test_what_raises_over_a_message_does_not_keep_the_next_from_coming(peer, open_channel):
    taken = Taken()

    def take(frames):
        taken.take(frames)
        if frames == [b"bad"]:
            raise LookupError

    loop = asyncio.get_running_loop()
    errors = []
    loop.set_exception_handler(lambda _, said: errors.append(said["exception"]))
    open_channel(take)
    for word in (b"bad", b"good"):
        peer.send_multipart([word])
    await taken.wait_for(2)
    loop.set_exception_handler(None)
    assert [type(error) for error in errors] == [LookupError]


async def test_a_closed_channel_takes_nothing(peer, open_channel):
    taken = Taken()
    channel = open_channel(taken.take)
    peer.send_multipart([b"late"])
    channel.close()
    await asyncio.sleep(0)
    assert taken == []

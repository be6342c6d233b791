"""The sockets of a kernel: where its clients connect, and what they are there for.

Theory of operation. Each channel is a listening unix socket and its peers, in an epoll of its own
that stands for them all: an event loop or a thread waits for that one descriptor, and calls `turn`.
A fork of the kernel calls `leave`, which frees what it has of them and leaves the kernel's alone,
and `open` where it is to serve clients of its own.
"""

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from select import EPOLLIN, EPOLLOUT, POLLOUT, poll
from select import epoll as Epoll  # the code may put another in its place
from socket import AF_UNIX, SOCK_NONBLOCK, SOCK_STREAM
from socket import socket as Socket
from typing import Any

from kernelsvc.kernel_host.capture import spare_descriptors
from kernelsvc.kernel_host.channels.zmtp import GREETING, Peer, encode

LINGER_SECONDS = 1.0
"""So long does a kernel that ends wait for a client to read."""
_BACKLOG = 16


class Channel(ABC):
    """One of them. To be used by one thread at a time."""

    kind: bytes

    def __init__(self) -> None:
        self._listener: Socket | None = None
        self._epoll: Epoll | None = None
        self._peers: dict[int, Peer] = {}

    @property
    def closed(self) -> bool:
        """Whether nobody can connect."""
        return self._listener is None

    def open(self, path: str) -> None:
        """Listen at that path, whatever was there before."""
        Path(path).unlink(missing_ok=True)
        self._listener = Socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK)
        self._listener.bind(path)
        self._listener.listen(_BACKLOG)
        self._epoll = Epoll()
        self._epoll.register(self._listener, EPOLLIN)

    def leave(self) -> None:
        """In a fork of the kernel: free what it has of this channel.

        What is registered with the epoll is the kernel's, which has the same one.
        """
        for one in (self._epoll, self._listener, *self._peers.values()):
            if one is not None:
                one.close()
        self._listener = self._epoll = None
        self._peers = {}

    def fileno(self) -> int:
        """What is readable when there is something to do."""
        assert self._epoll is not None
        return self._epoll.fileno()

    def turn(self) -> None:
        """Do what there is to do, and wait for nothing."""
        if self._epoll is None or self._listener is None:
            return
        for fd, events in self._epoll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif (peer := self._peers.get(fd)) is not None:
                self._serve(peer, events)

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._epoll is not None
        with contextlib.suppress(OSError), spare_descriptors():
            peer = Peer(self._listener.accept()[0], self.kind)
            self._peers[peer.fileno()] = peer
            self._epoll.register(peer, EPOLLIN)
            self._send(peer, GREETING)

    def _serve(self, peer: Peer, events: int) -> None:
        messages: list[list[bytes]] = []
        was_known = peer.routing_id is not None
        try:
            if events & EPOLLOUT:
                peer.send_rest()
                self._watch(peer)
            if events & ~EPOLLOUT:
                messages = peer.receive()
                if peer.is_behind:
                    self._watch(peer)
        except OSError:
            self._drop(peer)
            return
        except BaseException:
            # An interrupt of the code's: where in its bytes this one is, nobody knows now.
            self._drop(peer)
            raise
        if not was_known and peer.routing_id is not None:
            self._meet(peer)
        for message in messages:
            self._take(peer, message)

    def _watch(self, peer: Peer) -> None:
        """Be told when the peer has read, if something waits for that."""
        assert self._epoll is not None
        wanted = EPOLLIN | (EPOLLOUT if peer.is_behind else 0)
        self._epoll.modify(peer, wanted)

    def _drop(self, peer: Peer) -> None:
        assert self._epoll is not None
        if self._peers.pop(peer.fileno(), None) is not None:
            # A child process may have the connection too: to close it here does not end it.
            self._epoll.unregister(peer)
            peer.close()

    def _send(self, peer: Peer, message: bytes) -> None:
        """Send to that peer, which is dropped where it is gone."""
        try:
            peer.send(message)
        except OSError:
            self._drop(peer)
        except BaseException:
            self._drop(peer)
            raise

    @abstractmethod
    def _meet(self, peer: Peer) -> None:
        """The peer has introduced itself."""

    @abstractmethod
    def _take(self, peer: Peer, message: list[bytes]) -> None:
        """The peer has sent a message."""


class Router(Channel):
    """Takes requests, and sends each reply to who has asked: the first frame says who that is.

    Of the interface of pyzmq's ZMQStream, it has what ipykernel uses.
    """

    kind = b"ROUTER"

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[bytes, Peer] = {}
        self._numbers = itertools.count(1)
        self._received: Callable[[list[bytes]], Any] = lambda frames: None
        self.io_loop: Any = None

    def leave(self) -> None:
        """Free what a fork has of it."""
        super().leave()
        self._known = {}

    def on_recv(self, callback: Callable[[list[bytes]], Any], copy: bool = True) -> None:
        """Call that with the frames of each message; the first is who has sent it."""
        self._received = callback

    def send_multipart(self, frames: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        """Send the frames behind the first to the peer of that name, if it is still there."""
        to, *rest = frames
        peer = self._known.get(bytes(to))
        if peer is not None:
            self._send(peer, encode(rest))
            if peer.is_behind:
                self._watch(peer)

    def flush(self, *args: Any, **kwargs: Any) -> bool:
        """Take what has come and send what waits, at once; as the event loops of GUIs do."""
        assert self._epoll is not None
        is_due = bool(self._epoll.poll(0))
        self.turn()
        return is_due

    def getsockopt(self, option: int) -> int:
        """The descriptor that those event loops wait for (zmq.FD)."""
        return self.fileno()

    def _meet(self, peer: Peer) -> None:
        if not peer.routing_id:
            peer.routing_id = b"\0" + next(self._numbers).to_bytes(4)
        # One that connects again has not always been seen to go.
        before = self._known.get(peer.routing_id)
        self._known[peer.routing_id] = peer
        if before is not None:
            self._drop(before)

    def _drop(self, peer: Peer) -> None:
        if peer.routing_id and self._known.get(peer.routing_id) is peer:
            del self._known[peer.routing_id]
        super()._drop(peer)

    def _take(self, peer: Peer, message: list[bytes]) -> None:
        assert peer.routing_id is not None
        self._received([peer.routing_id, *message])


class Publisher(Channel):
    """Sends each message to those who have subscribed to how its first frame begins.

    It drops none: `wait` returns when a slow reader has what was sent. `welcome` is called with
    each new subscription.
    """

    kind = b"XPUB"

    def __init__(self, welcome: Callable[[bytes], None]) -> None:
        super().__init__()
        self._welcome = welcome
        self._topics: dict[Peer, list[bytes]] = {}

    def leave(self) -> None:
        """Free what a fork has of it."""
        super().leave()
        self._topics = {}

    def send(self, frames: Sequence[Any]) -> bool:
        """Send a message, or begin to; whether it has left."""
        has_left = True
        message = None
        for peer, topics in [*self._topics.items()]:
            if any(map(bytes(frames[0]).startswith, topics)):
                message = message or encode(frames)
                self._send(peer, message)
                has_left = has_left and not peer.is_behind
        return has_left

    @property
    def is_behind(self) -> bool:
        """Whether something waits for a reader."""
        return any(peer.is_behind for peer in self._topics)

    def wait(self, is_ending: Callable[[], bool]) -> None:
        """Return when everything sent has left; who reads nothing while it is ending is dropped."""
        for peer in [*self._topics]:
            while peer.is_behind and peer in self._topics:
                writable = poll()
                writable.register(peer, POLLOUT)
                if writable.poll(LINGER_SECONDS * 1000):
                    try:
                        peer.send_rest()
                    except OSError:
                        self._drop(peer)
                elif is_ending():
                    self._drop(peer)

    def _drop(self, peer: Peer) -> None:
        self._topics.pop(peer, None)
        super()._drop(peer)

    def _meet(self, peer: Peer) -> None:
        """Nothing: it says what it wants by a message."""

    def _take(self, peer: Peer, message: list[bytes]) -> None:
        what, topic = message[0][:1], message[0][1:]
        topics = self._topics.get(peer, [])
        if what == b"\1":
            self._topics[peer] = [*topics, topic]
            self._welcome(topic)
        elif what == b"\0" and topic in topics:
            topics.remove(topic)

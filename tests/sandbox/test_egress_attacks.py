"""The way out, attacked from the inside: what must not be reached, broken, filled or fooled."""

import random
import select
import socket
import struct
from pathlib import Path

import psutil
import pytest

from kernelsvc.sandbox.egress.policy import Limits
from tests.sandbox.conftest import read_all
from tests.support.namespaces import HOST, HOST6, INTERNET

WEB = f"http://{INTERNET}"
CONNECT = f"CONNECT {INTERNET}:80 HTTP/1.1\r\nHost: a\r\n\r\n".encode()

REFUSED_BY_POLICY = 2


def by_every_protocol(proxy, host):
    """What the proxy answers, asked for port 80 of `host` in each of its languages."""
    url = f"http://[{host}]/echo" if ":" in host else f"http://{host}/echo"
    return [
        proxy.curl("-g", url),
        proxy.curl("-g", "-p", "-v", url),
        proxy.curl("-g", "-x", f"socks5h://127.0.0.1:{proxy.port}", url),
    ]


def assert_refused(proxy, host, why):
    plain, tunnelled, socks = by_every_protocol(proxy, host)
    assert why in plain, plain
    assert plain.endswith("403 000")
    assert why in tunnelled, tunnelled
    assert "CONNECT tunnel failed, response 403" in tunnelled
    assert f"({REFUSED_BY_POLICY})" in socks, socks


def served(proxy, host):
    return [answer for answer in by_every_protocol(proxy, host) if "GET /echo HTTP/1.1" in answer]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_the_hosts_loopback_is_out_of_reach(proxy, host):
    assert_refused(proxy, host, "is a loopback address, which sessions may not reach")


@pytest.mark.parametrize("host", [HOST, HOST6])
def test_the_hosts_external_address_is_out_of_reach(proxy, host):
    assert_refused(proxy, host, f"{host} is an address of the host, which sessions may not reach")


def test_a_port_of_the_host_that_nobody_serves_is_refused_like_any_other(proxy):
    """So that the ports of the host cannot be told apart."""
    assert proxy.curl(f"http://{HOST}:9/").endswith("403 000")
    assert proxy.curl("-g", f"http://[{HOST6}]:9/").endswith("403 000")


def test_what_the_refusals_keep_out_of_reach_is_there(start):
    """The negative control: where the configuration allows it, each of these answers."""
    proxy = start(allow_networks=["127.0.0.0/8", "::1/128", f"{HOST}/32", f"{HOST6}/128"])
    for host in ("127.0.0.1", "localhost", "::1", HOST, HOST6, "::ffff:127.0.0.1", "0x7f.1"):
        assert len(served(proxy, host)) == 3, host


def test_the_hosts_address_is_out_of_reach_where_its_network_is_allowed(start):
    proxy = start(allow_networks=["203.0.113.0/24", "0.0.0.0/0"])
    assert_refused(proxy, HOST, "is an address of the host")
    assert_refused(proxy, "127.0.0.1", "is an address of the host")
    assert len(served(proxy, INTERNET)) == 3


@pytest.mark.parametrize("host", ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"])
def test_cloud_metadata_is_out_of_reach(proxy, host):
    assert_refused(proxy, host, f"{host} is a ")


def test_loopback_mapped_into_ipv6_is_out_of_reach(proxy):
    assert_refused(proxy, "::ffff:127.0.0.1", "127.0.0.1 is a loopback address")
    assert_refused(proxy, "64:ff9b::7f00:1", "is a loopback address (127.0.0.1) in IPv6 form")


@pytest.mark.parametrize("host", ["0", "127.1", "2130706433", "0x7f000001", "0177.1"])
def test_loopback_in_an_odd_spelling_is_out_of_reach(proxy, host):
    for answered in (
        proxy.say(f"GET http://{host}/echo HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
        proxy.say(f"CONNECT {host}:80 HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    ):
        assert answered.startswith(b"HTTP/1.1 403 kernelsvc: "), answered
    name = host.encode()
    answered = proxy.say(b"\5\1\0" + b"\5\1\0\3" + bytes([len(name)]) + name + b"\0\x50")
    assert answered == b"\5\0" + b"\5\2\0\1\0\0\0\0\0\0"


def test_a_name_that_resolves_to_loopback_is_out_of_reach(proxy):
    assert_refused(proxy, "loopback.test", "127.0.0.1 is a loopback address")


def test_a_name_that_is_rebound_after_the_check_leads_where_the_check_looked(proxy):
    first = proxy.curl("http://rebinding.test/echo")
    assert "Host: rebinding.test" in first, "reached, where it was when it was looked up"
    assert "127.0.0.1 is a loopback address" in proxy.curl("http://rebinding.test/echo")


def test_a_host_outside_of_the_allow_list_is_refused_by_every_protocol(start):
    proxy = start(domains=["*.test"], ports=[80])
    assert len(served(proxy, "web.test")) == 3
    assert_refused(proxy, INTERNET, "203.0.113.7 is not among the hosts")
    assert_refused(proxy, "loopback.test", "127.0.0.1 is a loopback address")
    assert "port 7 is not among the ports" in proxy.curl("http://web.test:7/")


def test_the_host_header_cannot_say_another_host_than_the_url(start):
    proxy = start(domains=["web.test"])
    page = proxy.curl("-H", "Host: hidden.test", "http://web.test/echo")
    assert "Host: web.test" in page
    assert "hidden.test" not in page


def test_200_slow_connections_keep_nobody_waiting_and_are_ended(start):
    proxy = start(limits=Limits(head_seconds=3))
    slow = [proxy.connect() for _ in range(200)]
    for number, connection in enumerate(slow):
        connection.sendall(b"GET http://203.0.113.7/" if number % 2 else b"\5")
    assert proxy.curl(f"{WEB}/echo").endswith("200 000")
    for number, connection in enumerate(slow):
        answered = read_all(connection)
        connection.close()
        if number % 2:
            assert answered.startswith(b"HTTP/1.1 408 kernelsvc: the request did not arrive")
        else:
            assert answered == b""


def test_a_client_that_sends_its_head_a_byte_at_a_time_gets_no_more_time(start):
    proxy = start(limits=Limits(head_seconds=1))
    with proxy.connect() as connection:
        connection.settimeout(0.05)
        answered = b""
        for byte in b"GET http://203.0.113.7/" + b"x" * 400:
            try:
                connection.sendall(bytes([byte]))
                answered = connection.recv(100)
            except TimeoutError:
                continue
            break
    assert answered.startswith(b"HTTP/1.1 408 ")


def test_connections_beyond_the_bound_wait_for_a_place(start):
    proxy = start(limits=Limits(connections=4))
    held = [proxy.connect() for _ in range(4)]
    for connection in held:
        connection.sendall(CONNECT)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    with proxy.connect() as fifth:
        fifth.sendall(CONNECT)
        fifth.settimeout(0.3)
        with pytest.raises(TimeoutError):
            fifth.recv(1)
        held.pop().close()
        fifth.settimeout(30)
        assert fifth.recv(100).startswith(b"HTTP/1.1 200")
    for connection in held:
        connection.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://203.0.113.7/ HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1_000_000,
        b"GET http://203.0.113.7/ HTTP/1.1\r\n" + b"X: x\r\n" * 100_000,
        b"GET http://203.0.113.7/" + b"x" * 1_000_000,
        b"CONNECT " + b"x" * 100_000 + b":443 HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_a_huge_head_is_refused_before_it_is_all_there(proxy, head):
    assert proxy.say(head).startswith((b"HTTP/1.1 431 kernelsvc: ", b"HTTP/1.1 400 kernelsvc: "))
    assert proxy.curl(f"{WEB}/echo").endswith("200 000")


def test_garbage_ends_its_own_connection_only(proxy):
    randomly = random.Random(0)
    garbage = [randomly.randbytes(randomly.randrange(1, 5000)) for _ in range(200)]
    garbage += [bytes([first]) + randomly.randbytes(40) for first in range(256)]
    garbage += [
        b"",
        b"\r\n\r\n",
        b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://203.0.113.7/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://user@203.0.113.7/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\4\1\0\x50\xcb\0\x71\7\0",
    ]
    for data in garbage:
        answered = proxy.say(data)
        assert not answered.startswith((b"HTTP/1.1 2", b"HTTP/1.1 502")), data
    assert proxy.curl(f"{WEB}/echo").endswith("200 000")
    assert proxy.egress.last_words == ""


def test_a_version_of_http_that_is_not_spoken_is_a_505(proxy):
    answered = proxy.say(b"GET http://203.0.113.7/echo HTTP/9.9\r\nHost: a\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 505 kernelsvc: ")


@pytest.mark.parametrize("target", ["203.0.113.7:0", "203.0.113.7:65536", "203.0.113.7", ":80"])
def test_connect_to_what_is_no_port_is_a_400(proxy, target):
    answered = proxy.say(f"CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert answered.startswith(b"HTTP/1.1 400 kernelsvc: ")


ADDRESS = b"\1\xcb\0\x71\7\0\x50"


@pytest.mark.parametrize(
    ("request_", "answered"),
    [
        (b"\5\1\2", b"\5\xff"),
        (b"\5\0", b"\5\xff"),
        (b"\5\1\0" + b"\5\2\0" + ADDRESS, b"\5\0\5\7"),
        (b"\5\1\0" + b"\5\3\0" + ADDRESS, b"\5\0\5\7"),
        (b"\5\1\0" + b"\5\1\0\2\0\0\0\0\0\0", b"\5\0\5\x08"),
        (b"\5\1\0" + b"\5\1\0\3\0\0\x50", b"\5\0\5\1"),
        (b"\5\1\0" + b"\5\1\0\3\3a\0b\0\x50", b"\5\0\5\1"),
        (b"\5\1\0" + b"\5\1\0\3\2\xff\xfe\0\x50", b"\5\0\5\1"),
        (b"\5\1\0" + b"\5\1\0\1\xcb\0\x71\7\0\0", b"\5\0\5\1"),
        (b"\5\1\0" + b"\5\1\0\3\x0cnothing.test\0\x50", b"\5\0\5\4"),
        (b"\5\1\0" + b"\5\1\0\1\xcb\0\x71\7\0\x09", b"\5\0\5\5"),
    ],
)
def test_socks_requests_that_cannot_be_served_get_the_reply_that_says_so(proxy, request_, answered):
    assert proxy.say(request_)[: len(answered)] == answered


POST = b"POST http://203.0.113.7/echo?smuggle HTTP/1.1\r\nHost: 203.0.113.7\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"Content-Length: 3, 4\r\n\r\nabcd",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: +3\r\n\r\nabc",
        b"Content-Length: 0x3\r\n\r\nabc",
        b"Content-Length: -1\r\n\r\nabc",
        b"Host: other.test\r\nContent-Length: 3\r\n\r\nabc",
        b"X: y\r\n\0: z\r\n\r\n",
    ],
)
def test_a_request_whose_length_can_be_read_in_two_ways_is_not_passed_on(proxy, framing):
    before = proxy.curl(f"{WEB}/seen").count("?smuggle")
    answered = proxy.say(POST + framing)
    assert answered.startswith((b"HTTP/1.1 400 kernelsvc: ", b"HTTP/1.1 501 kernelsvc: "))
    assert proxy.curl(f"{WEB}/seen").count("?smuggle") == before


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 3\r\n\r\nabc",
        b"Connection: close, content-length\r\nContent-Length: 3\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n",
        b"\r\n",
    ],
)
def test_a_second_request_behind_the_first_goes_nowhere(proxy, framing):
    """Not even to a server that would read on after it was asked to close."""
    before = proxy.curl(f"{WEB}/seen").count("?smuggled")
    second = b"GET http://203.0.113.7/echo?smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    answered = proxy.say(POST + framing + second)
    assert answered.count(b"HTTP/1.1 200") == 1
    assert (b"abc" in answered) == (b"abc" in framing), "the first one arrives whole"
    assert b"smuggled" not in answered
    assert proxy.curl(f"{WEB}/seen").count("?smuggled") == before


@pytest.mark.parametrize("chunks", [b"3\r\nabcXX", b"-3\r\nabc\r\n", b"zz\r\n", b"3\nabc\n0\n\n"])
def test_a_body_in_broken_chunks_ends_the_request(proxy, chunks):
    answered = proxy.say(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert answered.startswith(b"HTTP/1.1 400 kernelsvc: the request's body is broken"), answered


def test_a_connect_request_with_a_body_is_a_400(proxy):
    for framing in (b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n"):
        answered = proxy.say(CONNECT.removesuffix(b"\r\n") + framing)
        assert answered.startswith(b"HTTP/1.1 400 kernelsvc: a CONNECT request has no body")


def test_clients_that_never_read_cost_no_memory_and_stop_the_server(proxy):
    process = psutil.Process(proxy.egress.pid)
    assert proxy.curl(f"{WEB}/echo").endswith("200 000")
    before = process.memory_info().rss
    silent = []
    for number in range(40):
        connection = proxy.connect()
        ask = f"GET {WEB}/endless HTTP/1.1\r\nHost: {INTERNET}\r\n\r\n".encode()
        connection.sendall(ask if number % 2 else CONNECT + ask)
        silent.append(connection)
    sent = [-1, -2]
    while sent[-1] != sent[-20 if len(sent) >= 20 else 0]:
        sent.append(int(proxy.curl(f"{WEB}/sent").split()[0]))
    assert sent[-1] > 40 * 65536, "something was sent at all"
    assert process.memory_info().rss - before < 40 * 400_000
    for connection in silent:
        connection.close()


def test_a_client_that_never_reads_is_ended_when_it_has_been_idle_for_too_long(start):
    proxy = start(limits=Limits(idle_seconds=1))
    with proxy.connect() as plain, proxy.connect() as tunnel:
        ask = f"GET {WEB}/endless HTTP/1.1\r\nHost: {INTERNET}\r\n\r\n".encode()
        plain.sendall(ask)
        tunnel.sendall(CONNECT + ask)
        for connection in (plain, tunnel):
            wait_for_reset(connection)


def wait_for_reset(connection):
    """Wait without reading; 30 s at most."""
    connection.settimeout(30)
    poll = select.poll()
    poll.register(connection, select.POLLERR)
    assert poll.poll(30_000), "the connection was not ended"


def test_connections_that_break_off_are_nothing_to_speak_of(proxy):
    for data in (b"", b"GET", CONNECT, b"\5\1\0", CONNECT + bytes(100_000)):
        connection = proxy.connect()
        connection.sendall(data)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    assert proxy.curl(f"{WEB}/echo").endswith("200 000")
    assert proxy.egress.last_words == ""


def test_the_proxy_has_given_up_what_it_does_not_need(proxy):
    process = Path(f"/proc/{proxy.egress.pid}")
    assert "NoNewPrivs:\t1\n" in (process / "status").read_text()
    limits = {
        line[:25].strip(): line[25:].split()[:2]
        for line in (process / "limits").read_text().splitlines()
    }
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == ["0", "0"]
    assert int(limits["Max open files"][1]) <= 2 * 256 + 128

"""What a session's proxy lets through: addresses in all their forms, names, ports."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelsvc.sandbox.egress.addresses import denied_kind
from kernelsvc.sandbox.egress.destination import (
    BadDestination,
    Destination,
    normal_host,
    read_authority,
)
from kernelsvc.sandbox.egress.dial import Dialler, Unreachable
from kernelsvc.sandbox.egress.own_addresses import is_own_address
from kernelsvc.sandbox.egress.policy import Limits, Policy, Refused

pytestmark = pytest.mark.usefixtures("io_loop")

DENIED_IPV4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
]


def inside(*networks):
    """Any address of the networks, their first and last ones among them."""
    return st.one_of(
        st.integers(int(network[0]), int(network[-1])).map(type(network[0]))
        for network in map(ip_network, networks)
    )


def nobodys(_address):
    return False


def refused(policy, address, is_own=nobodys):
    try:
        policy.check_address(ip_address(address), is_own)
    except Refused as error:
        return str(error)
    return None


def forms(inner):
    """The IPv6 addresses that carry an IPv4 address."""
    value = int(inner)
    return [
        IPv6Address(number)
        for number in (
            0xFFFF << 32 | value,
            0xFFFF << 48 | value,
            value,
            int(IPv6Address("64:ff9b::")) | value,
            int(IPv6Address("2002::")) | value << 80 | 1,
            int(IPv6Address("2001::")) | value << 64 | 1,
            int(IPv6Address("2001:0:cb00:7107::")) | (value ^ 0xFFFFFFFF),
        )
    ]


@given(inside(*DENIED_IPV4))
def test_a_denied_ipv4_address_is_refused_in_every_form_it_can_be_given(address):
    policy = Policy()
    assert refused(policy, address)
    assert [form for form in forms(address) if not refused(policy, form)] == []


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_outside_of_the_list_is_reached(address):
    listed = any(address in ip_network(network) for network in DENIED_IPV4)
    is_azures = address == IPv4Address("168.63.129.16")
    assert bool(refused(Policy(), address)) == (listed or is_azures)


@given(
    inside(
        "::/96", "100::/64", "64:ff9b:1::/48", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
        "2001:2::/48", "4000::/3", "8000::/2", "c000::/3", "e000::/4",
    )
)  # fmt: skip
def test_an_ipv6_address_that_is_not_global_is_refused(address):
    assert refused(Policy(), address)


@pytest.mark.parametrize(
    "address",
    ["192.0.2.1", "198.51.100.1", "203.0.113.7", "1.1.1.1", "172.32.0.1", "100.128.0.1",
     "2001:db8::1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1",
     "2002:101:101::1"],
)  # fmt: skip
def test_a_public_address_and_one_for_documentation_are_reached(address):
    assert refused(Policy(), address) is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("169.254.169.254", "169.254.169.254 is a link-local address, which sessions may not"),
        ("100.100.100.200", "is a cloud metadata address"),
        ("fd00:ec2::254", "is a cloud metadata address"),
        ("::1", "is a loopback address"),
        ("::", "is an unspecified address"),
        ("::ffff:127.0.0.1", "127.0.0.1 is a loopback address"),
        ("64:ff9b::a00:1", "64:ff9b::a00:1 is a private address (10.0.0.1) in IPv6 form"),
        ("255.255.255.255", "is the broadcast address"),
    ],
)
def test_a_refusal_says_what_the_address_is(address, said):
    assert said in refused(Policy(), address)


def test_a_network_that_is_allowed_is_reached_and_what_else_is_listed_is_not():
    policy = Policy.of(allow_networks=["10.1.0.0/16"])
    assert refused(policy, "10.1.2.3") is None
    assert refused(policy, "10.2.0.1")
    assert refused(policy, "64:ff9b::a01:203"), "an allowed network is no tunnel's"


def test_a_network_that_is_denied_wins_over_one_that_is_allowed_in_every_form():
    policy = Policy.of(deny=["10.1.2.3/32", "203.0.113.0/24"], allow_networks=["10.0.0.0/8"])
    assert refused(policy, "10.1.2.4") is None
    assert "configuration denies" in refused(policy, "10.1.2.3")
    assert "configuration denies" in refused(policy, "203.0.113.7")
    assert "configuration denies" in refused(policy, "64:ff9b::cb00:7107")


def test_the_hosts_own_address_is_refused_even_where_its_network_is_allowed():
    def own(address):
        return address == IPv4Address("10.1.2.3")

    assert "an address of the host" in refused(
        Policy.of(allow_networks=["10.0.0.0/8"]), "10.1.2.3", own
    )
    assert "an address of the host" in refused(
        Policy.of(allow_networks=["0.0.0.0/0"]), "127.0.0.1", lambda _: True
    )
    assert "an address of the host" in refused(Policy(), "1.1.1.1", lambda _: True)
    assert refused(Policy.of(allow_networks=["10.1.2.3/32"]), "10.1.2.3", own) is None
    assert refused(Policy.of(allow_networks=["127.0.0.0/8"]), "127.0.0.9", lambda _: True) is None


def test_an_address_of_the_host_in_a_tunnels_form_is_refused():
    own = IPv4Address("203.0.113.1")
    assert "an address of the host" in refused(
        Policy(), "64:ff9b::cb00:7101", lambda address: address == own
    )


def test_the_kernel_says_which_addresses_are_the_hosts():
    assert is_own_address(ip_address("127.0.0.1"))
    assert is_own_address(ip_address("127.200.0.9"))
    assert not is_own_address(ip_address("203.0.113.200"))


@pytest.mark.parametrize(
    ("domains", "reached", "not_reached"),
    [
        (["pypi.org"], ["pypi.org", "PyPI.org.", "pypi.org"], ["a.pypi.org", "xpypi.org", "org"]),
        (["*.example.org"], ["a.example.org", "a.b.Example.ORG."], ["example.org", "xexample.org"]),
        (["bücher.example"], ["BÜCHER.example", "xn--bcher-kva.example"], ["bucher.example"]),
        (["203.0.113.7", "2001:DB8:0::1"], ["203.0.113.7", "2001:db8::1"], ["203.0.113.8"]),
        (["*.org"], ["pypi.org"], ["203.0.113.7", "2001:db8::1", "org", "0xcb007107"]),
        ([], [], ["pypi.org", "203.0.113.7"]),
    ],
)
def test_only_hosts_of_an_allow_list_may_be_asked_for(domains, reached, not_reached):
    policy = Policy.of(domains=domains)
    for host in reached:
        policy.check_destination(Destination(normal_host(host), 443))
    for host in not_reached:
        with pytest.raises(Refused, match="not among the hosts"):
            policy.check_destination(Destination(normal_host(host), 443))


def test_only_ports_of_a_list_may_be_asked_for():
    policy = Policy.of(ports=[80, 443])
    policy.check_destination(Destination("pypi.org", 443))
    with pytest.raises(Refused, match="port 25 is not among"):
        policy.check_destination(Destination("pypi.org", 25))


@pytest.mark.parametrize(
    "fields",
    [
        {"deny": ["10.0.0.1/8"]},
        {"allow_networks": ["ten"]},
        {"domains": ["*"]},
        {"domains": ["*.*.org"]},
        {"domains": ["*.10.0.0.1"]},
        {"domains": ["https://pypi.org"]},
        {"ports": [0]},
        {"ports": [True]},
        {"ports": [65536]},
    ],
)
def test_a_policy_that_makes_no_sense_is_an_error(fields):
    with pytest.raises(ValueError, match=r"not a (host|port)|does not appear|has host bits"):
        Policy.of(**fields)


networks = st.lists(st.sampled_from(["10.0.0.0/8", "2001:db8::/32", "203.0.113.7/32"]))


@given(
    deny=networks,
    allow_networks=networks,
    domains=st.none() | st.lists(st.sampled_from(["pypi.org", "*.example.org", "203.0.113.7"])),
    ports=st.none() | st.lists(st.integers(1, 65535)),
    limits=st.builds(Limits, connections=st.integers(1, 999), idle_seconds=st.floats(0.1, 1e6)),
)
def test_a_policy_comes_back_from_json_as_it_was(**fields):
    policy = Policy.of(**fields)
    assert Policy.from_json(policy.to_json()) == policy
    assert "\n" not in policy.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"limits": {}, "more": 1}', '{"limits": 3}'])
def test_what_is_no_policy_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"not a policy|Expecting value"):
        Policy.from_json(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("pypi.org:443", "pypi.org", 443),
        ("PYPI.org.:80", "pypi.org", 80),
        ("203.0.113.7:1", IPv4Address("203.0.113.7"), 1),
        ("[2001:db8::1]:65535", IPv6Address("2001:db8::1"), 65535),
        ("[::ffff:127.0.0.1]:80", IPv4Address("127.0.0.1"), 80),
        ("１２７.0.0.1:80", IPv4Address("127.0.0.1"), 80),
        ("127.1:80", "127.1", 80),
    ],
)
def test_a_host_and_port_are_read_in_their_usual_spellings(text, host, port):
    assert read_authority(text) == Destination(host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":", ":80", "a", "a:", "a:0", "a:65536", "a:-1", "a:80:80", "::1:80", "[::1", "[::1]x:80",
     "[a.org]:80", "[fe80::1%eth0]:80", "fe80::1%1:80", "a b:80", "a\0b:80", "a/b:80", "u@a:80",
     "a..b:80", ".:80", "x" * 64 + ".org:80", "x." * 200 + "org:80", "x" * 100_000 + ":80",
     "\ud800:80", "a:٣"],
)  # fmt: skip
def test_what_is_no_host_and_port_is_refused(text):
    with pytest.raises(BadDestination):
        read_authority(text)


@given(st.text(max_size=300))
def test_any_text_is_a_destination_or_is_refused(text):
    try:
        found = read_authority(text)
    except BadDestination:
        return
    assert 0 < found.port < 65536


SPELLINGS = [
    "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0",
    "0x0", "localhost", "10.1", "167772161", "0xa9fea9fe", "169.254.43518", "127.0.0.1.",
]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS)
async def test_an_odd_spelling_of_a_denied_address_is_refused_once_it_is_looked_up(host):
    with pytest.raises(Refused, match="may not reach"):
        await Dialler(Policy()).connect(Destination(normal_host(host), 80))


@pytest.mark.parametrize("host", SPELLINGS)
async def test_an_odd_spelling_of_an_address_passes_no_allow_list(host):
    with pytest.raises(Refused, match="not among the hosts"):
        await Dialler(Policy.of(domains=["pypi.org", "*.org"])).connect(
            Destination(normal_host(host), 80)
        )


async def test_a_name_outside_of_the_allow_list_is_never_looked_up(monkeypatch):
    def look_up(*_args, **_kwargs):
        raise AssertionError("looked up")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(Refused):
        await Dialler(Policy.of(domains=["pypi.org"])).connect(Destination("secret.evil.org", 53))


async def test_a_connection_that_turns_out_to_end_at_this_host_is_closed_before_use():
    """The look at the routes missed it; what the kernel then chose as source tells."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        policy = Policy.of(allow_networks=["0.0.0.0/0"])
        with pytest.raises(Refused, match="address of the host"):
            await Dialler(policy, is_own=nobodys).connect(
                Destination(IPv4Address("127.0.0.1"), port)
            )
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.recv(1) == b""


async def test_a_port_where_nobody_listens_is_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match="refused"):
        await Dialler(Policy.of(allow_networks=["127.0.0.0/8"])).connect(
            Destination("localhost", port)
        )


def test_every_kind_of_denied_address_is_called_something():
    for network in DENIED_IPV4:
        kind = denied_kind(ip_network(network)[1])
        assert kind is not None
        assert kind.startswith(("a ", "an ", "the "))

"""The addresses that sessions may not reach, each with what it is: written out, nothing inferred.

The standard library's `is_private` is not the definition: it has changed between releases, counts
the documentation ranges in and leaves shared address space out.
"""

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The first row that holds an address gives it its name, so the narrower rows come first.
_DENIED: list[tuple[Network, str]] = [
    (ip_network(network), kind)
    for network, kind in (
        # Served by the cloud's hypervisor to whoever asks from this machine; the one of
        # 169.254.169.254 is link-local.
        ("168.63.129.16/32", "a cloud metadata address"),  # Azure; lies in public space
        ("100.100.100.200/32", "a cloud metadata address"),  # Alibaba
        ("fd00:ec2::254/128", "a cloud metadata address"),  # AWS over IPv6
        ("0.0.0.0/8", "an unspecified address"),  # RFC 1122; Linux takes 0.0.0.0 for loopback
        ("10.0.0.0/8", "a private address"),  # RFC 1918
        ("100.64.0.0/10", "a shared (carrier-grade NAT) address"),  # RFC 6598
        ("127.0.0.0/8", "a loopback address"),  # RFC 1122
        ("169.254.0.0/16", "a link-local address"),  # RFC 3927; most clouds' metadata
        ("172.16.0.0/12", "a private address"),  # RFC 1918; containers' bridges
        ("192.0.0.0/24", "an address for protocol assignments"),  # RFC 6890; DS-Lite, NAT64 probes
        ("192.168.0.0/16", "a private address"),  # RFC 1918
        ("198.18.0.0/15", "a benchmarking address"),  # RFC 2544; used as if it were private
        ("224.0.0.0/4", "a multicast address"),  # RFC 5771
        ("255.255.255.255/32", "the broadcast address"),  # RFC 919
        ("240.0.0.0/4", "a reserved address"),  # RFC 1112; routed inside some clouds
        ("::/128", "an unspecified address"),  # RFC 4291; Linux takes it for loopback
        ("::1/128", "a loopback address"),  # RFC 4291
        ("64:ff9b:1::/48", "a local translation address"),  # RFC 8215; where IPv4 sits is local
        ("100::/64", "a discard-only address"),  # RFC 6666
        ("2001:2::/48", "a benchmarking address"),  # RFC 5180
        ("fc00::/7", "a private (unique local) address"),  # RFC 4193
        ("fe80::/10", "a link-local address"),  # RFC 4291
        ("fec0::/10", "a private (site-local) address"),  # RFC 3879
        ("ff00::/8", "a multicast address"),  # RFC 4291
        # IANA gives out global unicast addresses from 2000::/3 only; this is all the rest.
        ("::/3", "a reserved address"),
        ("4000::/2", "a reserved address"),
        ("8000::/1", "a reserved address"),
    )
]

_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, deprecated
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_6TO4 = IPv6Network("2002::/16")  # RFC 3056
_TEREDO = IPv6Network("2001::/32")  # RFC 4380


def canonical(address: Address) -> Address:
    """The address that a connection would go to: an IPv4-mapped one is IPv4."""
    if isinstance(address, IPv6Address) and address in _MAPPED:
        return _low32(address)
    return address


def embedded(address: Address) -> list[IPv4Address]:
    """The IPv4 addresses that a translator or a tunnel would find in an IPv6 address."""
    if isinstance(address, IPv4Address):
        return []
    value = int(address)
    if address in _6TO4:
        return [IPv4Address(value >> 80 & 0xFFFFFFFF)]
    if address in _TEREDO:
        return [
            IPv4Address(value >> 64 & 0xFFFFFFFF),
            IPv4Address(~value & 0xFFFFFFFF),
        ]
    is_wrapped = any(address in network for network in (_MAPPED, _TRANSLATED, _NAT64))
    if is_wrapped or (address in _COMPATIBLE and value > 1):
        return [_low32(address)]
    return []


def denied_kind(address: Address) -> str | None:
    """What `address` is where sessions may not reach its kind ("a loopback address"), else None."""
    for inner in embedded(address):
        if kind := _listed(inner):
            return f"{kind} ({inner}) in IPv6 form"
    if address in _MAPPED or address in _NAT64:
        return None
    return _listed(address)


def means_one_host(network: Network) -> bool:
    """Whether a network is a single address or loopback: whoever writes it means that host."""
    return network.prefixlen == network.max_prefixlen or any(
        network[0] in loopback and network[-1] in loopback for loopback in _LOOPBACK
    )


def _listed(address: Address) -> str | None:
    return next((kind for network, kind in _DENIED if address in network), None)


def _low32(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)

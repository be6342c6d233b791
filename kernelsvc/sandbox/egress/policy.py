"""What one session's proxy lets through, as plain data that goes to the proxy as a line of JSON."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Self

from kernelsvc.sandbox.egress.addresses import (
    Address,
    Network,
    canonical,
    denied_kind,
    embedded,
    means_one_host,
)
from kernelsvc.sandbox.egress.destination import BadDestination, Destination, normal_host


class Refused(Exception):
    """The policy does not let a connection through; `str()` says which and why."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what one session's proxy holds and waits for; times are in seconds.

    Connections beyond `connections` wait in the listener's queue. `head_bytes` bounds the head of
    a request and of an answer, which has `head_seconds` to arrive. `connect_seconds` is for looking
    a name up and trying all of its addresses. A connection that moves no byte in either direction
    for `idle_seconds` is closed.
    """

    connections: int = 256
    head_bytes: int = 32 * 1024
    head_seconds: float = 30.0
    connect_seconds: float = 30.0
    idle_seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name} must be a number above 0")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Where a session may connect to.

    What `addresses` lists and this host's own addresses are always denied, except as follows.

    `deny`: further networks that are never reached, such as the machine's public address where a
    router translates it, or a provider's own NAT64 prefix. Wins over `allow_networks`.
    `allow_networks`: networks that are reached although they are listed. This host's own addresses
    inside of one stay denied, unless it is that very address (/32, /128) or loopback.
    `domains`: None for all, else the only hosts that may be asked for: names (`pypi.org`), names
    below one (`*.example.org`, which is not `example.org` itself), addresses (`203.0.113.7`).
    `ports`: None for all, else the only ports.

    Raises ValueError for what is not a network, a host or a port.
    """

    deny: tuple[Network, ...] = ()
    allow_networks: tuple[Network, ...] = ()
    domains: tuple[str, ...] | None = None
    ports: tuple[int, ...] | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("deny", tuple(ip_network(network) for network in self.deny))
        put("allow_networks", tuple(ip_network(network) for network in self.allow_networks))
        if self.domains is not None:
            put("domains", tuple(_normal_pattern(pattern) for pattern in self.domains))
        if self.ports is not None:
            put("ports", tuple(self.ports))
            for port in self.ports:
                if type(port) is not int or not 0 < port < 65536:
                    raise ValueError(f"{port!r} is not a port")

    @classmethod
    def of(
        cls,
        *,
        deny: Iterable[str] = (),
        allow_networks: Iterable[str] = (),
        domains: Iterable[str] | None = None,
        ports: Iterable[int] | None = None,
        limits: Limits | None = None,
    ) -> Self:
        """The policy that is written in a configuration; raises ValueError."""
        return cls(
            deny=tuple(map(ip_network, deny)),
            allow_networks=tuple(map(ip_network, allow_networks)),
            domains=None if domains is None else tuple(domains),
            ports=None if ports is None else tuple(ports),
            limits=limits or Limits(),
        )

    def to_json(self) -> str:
        """The policy on one line; `from_json` reads it back."""
        fields = dataclasses.asdict(self)
        for name in ("deny", "allow_networks"):
            fields[name] = [str(network) for network in fields[name]]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The policy that `to_json` wrote; raises ValueError for anything else."""
        try:
            fields: dict[str, Any] = json.loads(text)
            return cls.of(**{**fields, "limits": Limits(**fields["limits"])})
        except (TypeError, KeyError) as error:
            raise ValueError("not a policy") from error

    def check_destination(self, wanted: Destination) -> None:
        """Raise Refused where the host or the port may not be asked for; looks nothing up."""
        if self.ports is not None and wanted.port not in self.ports:
            raise Refused(f"port {wanted.port} is not among the ports that sessions may reach")
        if self.domains is not None and not any(
            _matches(str(wanted.host), pattern) for pattern in self.domains
        ):
            raise Refused(f"{wanted.host} is not among the hosts that sessions may reach")

    def check_address(self, address: Address, is_own: Callable[[Address], bool]) -> None:
        """Raise Refused where no connection may be made to `address`.

        `is_own` says whether an address is this host's; it is called only where it matters.
        """
        address = canonical(address)
        forms = [address, *embedded(address)]
        if any(form in network for form in forms for network in self.deny):
            raise Refused(f"{address} is in a network that the configuration denies")
        allowing = [network for network in self.allow_networks if address in network]
        if not allowing and (kind := denied_kind(address)):
            raise Refused(f"{address} is {kind}, which sessions may not reach")
        if not any(means_one_host(network) for network in allowing) and any(map(is_own, forms)):
            raise Refused(f"{address} is an address of the host, which sessions may not reach")


def _normal_pattern(pattern: str) -> str:
    is_wildcard = pattern.startswith("*.")
    try:
        host = normal_host(pattern.removeprefix("*."))
    except BadDestination as error:
        raise ValueError(f"{pattern!r} is not a host: {error}") from error
    if is_wildcard and not isinstance(host, str):
        raise ValueError(f"{pattern!r} is not a host: an address has nothing below it")
    return f"*.{host}" if is_wildcard else str(host)


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern

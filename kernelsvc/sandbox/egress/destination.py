"""Where a request wants to go: reading `host:port` in the spellings that clients use."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from kernelsvc.sandbox.egress.addresses import Address, canonical

_LONGEST_TEXT = 1024
_LONGEST_NAME = 253
_LABEL = r"[a-z0-9_-]{1,63}"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_AUTHORITY = re.compile(r"(?:\[(?P<literal>[^\[\]]*)\]|(?P<host>[^\[\]:]*))(?::(?P<port>[0-9]*))?")


class BadDestination(ValueError):
    """The text does not name a host and a port; says why."""


@dataclass(frozen=True)
class Destination:
    """A host, in normal form, and a port from 1 to 65535.

    `host` is an IP address where it was written as one in the usual way; every other spelling is a
    name, which the resolver may know (`127.1`, `0x7f000001`).
    """

    host: str | Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return f"{host}:{self.port}"


def destination(host: str, port: int) -> Destination:
    """The destination for a host and a port; raises BadDestination."""
    if not 0 < port < 65536:
        raise BadDestination("the port must be between 1 and 65535")
    return Destination(normal_host(host), port)


def read_authority(text: str, default_port: int | None = None) -> Destination:
    """The destination in `name:80`, `192.0.2.1:80` or `[2001:db8::1]:80`; raises BadDestination."""
    if len(text) > _LONGEST_TEXT:
        raise BadDestination("the host is too long")
    if (found := _AUTHORITY.fullmatch(text)) is None:
        raise BadDestination("expected HOST:PORT, an IPv6 address in brackets")
    digits, literal = found["port"], found["literal"]
    if digits:
        port = int(digits)
    elif default_port is not None:
        port = default_port
    else:
        raise BadDestination("the port is missing")
    if literal is not None:
        # Only IPv6 addresses stand in brackets.
        try:
            return destination(str(IPv6Address(literal)), port)
        except ValueError as error:
            raise BadDestination("not an IPv6 address between the brackets") from error
    return destination(found["host"], port)


def normal_host(text: str) -> str | Address:
    """An address, or a name in lower case, IDNA, without trailing dot; raises BadDestination."""
    if len(text) > _LONGEST_TEXT:
        raise BadDestination("the host is too long")
    if "%" in text:
        raise BadDestination("addresses with a zone are not accepted")
    try:
        return canonical(ip_address(text))
    except ValueError:
        pass
    try:
        name = text if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise BadDestination("the host is not a name that DNS can hold") from error
    name = name.lower().removesuffix(".")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise BadDestination("the host is not a name that DNS can hold")
    try:
        return canonical(ip_address(name))
    except ValueError:
        return name

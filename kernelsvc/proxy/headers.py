"""Which headers go on, in either direction, and which concern one hop or one origin only.

A server inside is not trusted: it shares its origin, as browsers see it, with the service and with
the servers of all other sessions. So what would speak for the whole origin is taken out of its
answers, and `Content-Security-Policy: sandbox` gives each of its pages an origin of its own.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kernelsvc.errors import BadGateway
from kernelsvc.proxy.cookies import CookieSpace

Headers = list[tuple[str, str]]
"""Names and values; the text is that of latin-1, as it is on the wire."""

SANDBOX: Final = (
    "sandbox allow-downloads allow-forms allow-modals allow-orientation-lock allow-pointer-lock "
    "allow-popups allow-presentation allow-scripts"
)
"""What a page may do, which is everything but to be of the origin that it came from."""

_HOP_BY_HOP: Final = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
# What `Connection: ...` may not have removed: the framing and the destination of the message.
_END_TO_END: Final = {"content-length", "host"}
_REPLACED: Final = {
    "host",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
}
# They speak for all of an origin, or a host: its storage, its other pages, where it is reached.
_OF_THE_ORIGIN: Final = {
    "alt-svc",
    "clear-site-data",
    "nel",
    "origin-agent-cluster",
    "report-to",
    "service-worker-allowed",
    "set-cookie",
    "strict-transport-security",
}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True)
class Forwarded:
    """What a server is told of the request as it came: `prefix` is the path that was taken off."""

    client: str
    protocol: str
    host: str
    prefix: str


def for_server(
    headers: Iterable[tuple[str, str]],
    forwarded: Forwarded,
    cookies: CookieSpace,
    port: int,
    *,
    upgrade: bool,
) -> Headers:
    """A request's headers as the server on `port` gets them, those of the framing included.

    With `upgrade` they ask for a WebSocket.
    """
    given = list(headers)
    framing = _framing(given)
    replaced = _REPLACED | ({"content-length"} if framing else set())
    passed = [(name, value) for name, value in _end_to_end(given) if name.lower() not in replaced]
    before = [value for name, value in given if name.lower() == "x-forwarded-for"]
    sent = [value for name, value in given if name.lower() == "cookie"]
    own = cookies.inward("; ".join(sent))
    return [
        ("Host", f"localhost:{port}"),
        *passed,
        *([("Cookie", own)] if own else []),
        ("X-Forwarded-For", ", ".join([*before, forwarded.client])),
        ("X-Forwarded-Proto", forwarded.protocol),
        ("X-Forwarded-Host", forwarded.host),
        ("X-Forwarded-Prefix", forwarded.prefix),
        *framing,
        *([("Connection", "Upgrade"), ("Upgrade", "websocket")] if upgrade else []),
        *([] if upgrade else [("Connection", "close")]),
    ]


def _framing(given: Headers) -> Headers:
    is_chunked = any(name.lower() == "transfer-encoding" for name, _ in given)
    return [("Transfer-Encoding", "chunked")] if is_chunked else []


def for_client(
    headers: Iterable[tuple[str, str]], status: int, cookies: CookieSpace, *, chunked: bool
) -> Headers:
    """An answer's headers as the client gets them; raises BadGateway where they cannot go on.

    Where the server's answer was `chunked`, the chunks say how long it is, and nothing else does.
    """
    given = list(headers)
    if any(_CONTROL.search(value) for _, value in given):
        raise BadGateway("its answer has a header with control characters")
    dropped = _OF_THE_ORIGIN | ({"content-length"} if chunked or status == 204 else set())
    passed = [(name, value) for name, value in _end_to_end(given) if name.lower() not in dropped]
    set_cookies = (cookies.outward(value) for name, value in given if name.lower() == "set-cookie")
    return [
        *passed,
        *(("Set-Cookie", cookie) for cookie in set_cookies if cookie is not None),
        ("Content-Security-Policy", SANDBOX),
    ]


def for_switching(headers: Iterable[tuple[str, str]]) -> Headers:
    """The headers of a 101 as the client gets them."""
    passed = [
        (name, value)
        for name, value in _end_to_end(headers)
        if name.lower() not in _OF_THE_ORIGIN and name.lower() != "content-length"
    ]
    return [("Upgrade", "websocket"), ("Connection", "Upgrade"), *passed]


def wants_websocket(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether a request asks for a WebSocket; other protocols are not switched to."""
    given = list(headers)
    upgrades = [value.strip().lower() for name, value in given if name.lower() == "upgrade"]
    return upgrades == ["websocket"] and "upgrade" in _listed(given)


def _end_to_end(headers: Iterable[tuple[str, str]]) -> Headers:
    """Without what concerns one hop only (RFC 9110, 7.6.1): the known, and those said to."""
    given = list(headers)
    removed = _HOP_BY_HOP | (_listed(given) - _END_TO_END)
    return [(name, value) for name, value in given if name.lower() not in removed]


def _listed(headers: Headers) -> set[str]:
    return {
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    }

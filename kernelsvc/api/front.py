"""Which hosts and which web pages may be behind a request: decided here, applied by the base.

A browser can be made to send requests to a service on loopback in two ways. *DNS rebinding*: a
page's own host name comes to mean 127.0.0.1, and the page is then same-origin with us; such a
request has the page's name in `Host`. *Cross-site requests*: any page may send some requests
anywhere without asking, and need not be able to read the answer for code to have run; such a
request has the page's origin in `Origin`, which no page can leave out or change, unless it asks for
what a page may show of others (an image, say): then `Sec-Fetch-Mode` tells. Other clients send
neither and are not concerned.

The pages that sessions serve below `/proxy/` come from the service's own origin. Browsers are told
to give each an origin of its own (`proxy.headers`), which is `null` in `Origin`. A browser that
does not listen still says where the page is from, in `Referer`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kernelsvc.errors import FieldProblem, Forbidden, InvalidRequest, WrongHost

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

_PREFLIGHT_SECONDS = 600
_OTHERS = frozenset({"cross-site", "same-site"})
_PROXIED = "/proxy/"
_URL = re.compile(r"(?P<origin>https?://[^/?#]+)(?P<path>[^?#]*)")
_ELSEWHERE = (
    "web pages of this origin may not use this service; "
    "cors_origins in its configuration names those that may"
)


@dataclass(frozen=True)
class Front:
    """What the configuration allows; all in lower case.

    `hosts` are names, with a port where only that one is meant; None where every host is fine.
    `origins` may use the API from other pages, `own_origins` are ours behind a proxy.
    """

    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()
    own_origins: frozenset[str] = frozenset()

    def check_host(self, host: str) -> None:
        """Raise WrongHost unless the `Host` header (name, and port if any) is one of ours."""
        if self.hosts is None:
            return
        host = host.lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if host not in self.hosts and name not in self.hosts:
            raise WrongHost(
                "this service does not answer for the host of this request; "
                "allowed_hosts in its configuration names more hosts"
            )

    def check_page(self, headers: Mapping[str, str], own: str) -> None:
        """Raise Forbidden where a page is behind a request that may not use the API.

        `own` is our origin.
        """
        ours = {own.lower(), *self.own_origins}
        origin = headers.get("Origin")
        if origin is not None and origin.lower() not in ours | self.origins:
            raise Forbidden(_ELSEWHERE)
        if headers.get("Sec-Fetch-Mode") == "no-cors" and headers.get("Sec-Fetch-Site") in _OTHERS:
            raise Forbidden(_ELSEWHERE)
        where = _URL.match(headers.get("Referer", "").lower())
        if where and where["origin"] in ours and where["path"].startswith(_PROXIED):
            raise Forbidden("pages that sessions serve may not use this service")

    def page_headers(self, origin: str | None) -> dict[str, str]:
        """What lets a page elsewhere read the answer, where it may; nothing without CORS."""
        if not self.origins:
            return {}
        if origin is None or origin.lower() not in self.origins:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Location, Retry-After",
        }


def preflight_headers(methods: Iterable[str], headers: str | None) -> dict[str, str]:
    """What an admitted page may send: these methods, and the headers that it asks for."""
    return {
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        **({"Access-Control-Allow-Headers": headers} if headers else {}),
    }


def check_parameters(given: Mapping[str, Sequence[bytes]], known: tuple[str, ...]) -> None:
    """Raise InvalidRequest, which names them, where query parameters are not known, or repeated.

    A known name that ends in "." stands for all that begin with it.
    """
    prefixes = tuple(name for name in known if name.endswith("."))
    problems = []
    for name, values in given.items():
        if name not in known and not name.startswith(prefixes):
            problems.append(FieldProblem(name, "is not a parameter of this request"))
        elif len(values) > 1:
            problems.append(FieldProblem(name, "is given more than once"))
    if problems:
        raise InvalidRequest(problems)

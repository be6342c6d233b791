"""Keeping the cookies of servers inside apart from each other, and from all others of the host.

Browsers send a host's cookies to every port and path of it: what another program on this machine
has set for `localhost` too, and what one session's server has set to another's. So a server's
cookies go to the client under names that begin with a mark of the server's own, and only such come
back in. Their path is below the server's.
"""

from hashlib import sha256
from typing import Final

_MARK_DIGITS: Final = 12


class CookieSpace:
    """The cookies of one port of one session, which is reached below the path `prefix`."""

    def __init__(self, session_id: str, port: int, prefix: str) -> None:
        digest = sha256(f"{session_id}\n{port}".encode()).hexdigest()
        self._mark = f"ks-{digest[:_MARK_DIGITS]}-"
        self._prefix = prefix

    def outward(self, set_cookie: str) -> str | None:
        """A server's `Set-Cookie` as the client gets it; None where it is none."""
        cookie, *attributes = set_cookie.split(";")
        name, equals, value = cookie.strip().partition("=")
        if not (name and equals):
            return None
        kept = [self._mark + name + equals + value]
        for attribute in attributes:
            key, _, of_key = attribute.strip().partition("=")
            match key.strip().lower():
                case "domain" | "":
                    continue
                case "path":
                    path = of_key.strip()
                    if path.startswith("/"):
                        kept.append(f"Path={self._prefix}{path}")
                case _:
                    kept.append(attribute.strip())
        return "; ".join(kept)

    def inward(self, cookies: str) -> str:
        """Of a client's `Cookie` header what the server has set, under its own names."""
        found = (each.strip() for each in cookies.split(";"))
        return "; ".join(
            each.removeprefix(self._mark) for each in found if each.startswith(self._mark)
        )

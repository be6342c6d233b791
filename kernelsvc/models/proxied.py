"""Requests to ports of sessions: where they are found, and what stored code is told of them."""

from dataclasses import dataclass

from pydantic import BaseModel


class PortUrl(BaseModel):
    """Where a port of a session is found."""

    url: str
    base_url: str
    session_id: str
    port: int


@dataclass(frozen=True, slots=True)
class ProxiedRequest:
    """A request as a server on the port would get it; text is that of latin-1, but for the body.

    `path` begins with a slash and is as it was sent, `query` is what was behind the question mark.
    """

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes

"""Reading server-sent events, as the HTML standard has them."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Sse:
    """One event: its name, its id and its data."""

    name: str
    id: str
    data: Any


class _Lines:
    """Puts lines together to events; comments are left out."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}

    def event(self, line: str) -> Sse | None:
        """The event that ends with this line, if one does."""
        if line:
            name, _, value = line.partition(": ")
            self._fields[name] = value
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        return Sse(fields["event"], fields["id"], json.loads(fields["data"]))


async def events_of(response: httpx.Response) -> AsyncIterator[Sse]:
    """The events of an answer, as they come."""
    lines = _Lines()
    async for line in response.aiter_lines():
        if event := lines.event(line):
            yield event


def events_in(response: httpx.Response) -> Iterator[Sse]:
    """The same for a client that is not asynchronous."""
    lines = _Lines()
    for line in response.iter_lines():
        if event := lines.event(line):
            yield event


def text_of(events: list[Sse], name: str = "stdout") -> str:
    """All that was printed."""
    return "".join(event.data["content"] for event in events if event.name == name)

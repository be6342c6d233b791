"""Reading server-sent events, as the HTML standard has them."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Sse:
    """One event: its name, its id and its data."""

    name: str
    id: str
    data: Any


async def events_of(response: httpx.Response) -> AsyncIterator[Sse]:
    """The events of an answer, as they come; comments are left out."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Sse(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}


def text_of(events: list[Sse], name: str = "stdout") -> str:
    """All that was printed."""
    return "".join(event.data["content"] for event in events if event.name == name)

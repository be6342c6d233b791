"""A thin client for tests: what was answered, with nothing hidden."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.waiting import eventually


@dataclass(frozen=True)
class Answer:
    """An answer: its status, headers and JSON."""

    status: int
    headers: httpx.Headers
    json: Any


class Api:
    """Sends requests to one service."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def send(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Send a request; `body` goes as JSON."""
        if body is not None:
            options["json"] = body
        response = await self.http.request(method, path, **options)
        return Answer(response.status_code, response.headers, response.json())

    async def create(self, session_id: str = "s", **fields: Any) -> dict[str, Any]:
        """Make a session; asserts that it was made."""
        body = {"language": "python", "session_id": session_id, **fields}
        answer = await self.send("POST", "/api/sessions", body)
        assert answer.status == 201, answer
        session: dict[str, Any] = answer.json
        return session

    async def session(self, session_id: str = "s") -> dict[str, Any]:
        """The session; asserts that it is there."""
        answer = await self.send("GET", f"/api/sessions/{session_id}")
        assert answer.status == 200, answer
        session: dict[str, Any] = answer.json
        return session

    async def until_running(self, session_id: str = "s") -> None:
        """Return when a run of the session's is going on."""

        async def is_running() -> bool:
            return bool((await self.session(session_id))["state"] == "running")

        await eventually(is_running)

    async def run(self, code: str, session_id: str = "s", **fields: Any) -> dict[str, Any]:
        """Run code; asserts that there is a result."""
        body = {"code": code, **fields}
        answer = await self.send("POST", f"/api/sessions/{session_id}/run", body)
        assert answer.status == 200, answer
        run: dict[str, Any] = answer.json
        return run

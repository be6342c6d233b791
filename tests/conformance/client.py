"""What a conformance test knows of the service: a URL, and what may be asked of it by HTTP."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.sse import Sse, events_in

# Goes on until the test puts a file `go`, and takes it away.
HELD = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.005)\nos.remove('go')\n"
ENDLESS = "import time\nwhile True: time.sleep(0.01)"


def new_id() -> str:
    """An id that no session has."""
    return f"conformance-{uuid.uuid4().hex}"


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error object of a refusal; asserts its status, its code and its shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    problem: dict[str, Any] = answer.json()
    assert problem.keys() - {"details"} == {"error", "code", "request_id"}
    assert all(
        isinstance(problem[name], str) and problem[name] for name in problem.keys() - {"details"}
    )
    assert problem["code"] == code
    assert "Traceback" not in answer.text
    return problem


def fields_of(problem: dict[str, Any]) -> set[str]:
    """The fields that an error object names; asserts that it says something of each."""
    assert all(detail.keys() == {"field", "message"} for detail in problem["details"])
    assert all(detail["message"] for detail in problem["details"])
    return {detail["field"] for detail in problem["details"]}


class Client:
    """Sends requests to the service."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Send a request; `body` goes as JSON, where there is one."""
        if body is not None:
            options["json"] = body
        return self.http.request(method, path, **options)

    def answer(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Send a request that must succeed; returns its JSON."""
        answer = self.send(method, path, body, **options)
        assert answer.is_success, answer.text
        return answer.json()

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> set[str]:
        """Send a request that must be refused as invalid; returns the fields that are named."""
        return fields_of(
            problem_of(self.send(method, path, body, **options), 400, "invalid_request")
        )

    def create(self, **fields: Any) -> "Session":
        """Make a session, of Python where nothing else is said."""
        body = {"language": "python", **fields}
        answer = self.send("POST", "/api/sessions", body)
        assert answer.status_code == 201, answer.text
        return Session(self, answer.json())


class Session:
    """A session of the service's, and what may be asked of it."""

    def __init__(self, client: Client, created: dict[str, Any]) -> None:
        self.client = client
        self.created = created
        self.id: str = created["id"]
        self.path = f"/api/sessions/{self.id}"

    def send(
        self, method: str, below: str = "", body: Any = None, **options: Any
    ) -> httpx.Response:
        """Send a request to what is `below` the session's path."""
        return self.client.send(method, self.path + below, body, **options)

    def answer(self, method: str, below: str = "", body: Any = None, **options: Any) -> Any:
        """The same for a request that must succeed; returns its JSON."""
        return self.client.answer(method, self.path + below, body, **options)

    def refused(self, method: str, below: str = "", body: Any = None, **options: Any) -> set[str]:
        """The same for one that must be refused as invalid; returns the fields that are named."""
        return self.client.refused(method, self.path + below, body, **options)

    def show(self) -> dict[str, Any]:
        """The session as it is now."""
        shown: dict[str, Any] = self.answer("GET")
        return shown

    def patch(self, **changes: Any) -> dict[str, Any]:
        """Change the session; returns it as it is then."""
        session: dict[str, Any] = self.answer("PATCH", body=changes)["session"]
        return session

    def run(self, code: str, **fields: Any) -> dict[str, Any]:
        """Run code to its end; returns the run."""
        answer = self.send("POST", "/run", {"code": code, **fields})
        assert answer.status_code == 200, answer.text
        run: dict[str, Any] = answer.json()
        return run

    def says(self, code: str, **fields: Any) -> str:
        """Run code that must end well; returns what it printed."""
        run = self.run(code, **fields)
        assert run["exit_code"] == 0, run
        said: str = run["stdout"]
        return said

    def begin(self, code: str, **fields: Any) -> str:
        """Run code in the background; returns the run's id."""
        answer = self.send("POST", "/run", {"code": code, "background": True, **fields})
        assert answer.status_code == 202, answer.text
        run_id: str = answer.json()["run_id"]
        return run_id

    def begin_held(self) -> str:
        """Begin a run that goes on until `let_go`, and return when its code runs."""
        self.send("DELETE", "/files/held")
        run_id = self.begin(f"open('held', 'w').close()\n{HELD}", timeout=60)
        self.until_there("held")
        return run_id

    def until_there(self, path: str) -> None:
        """Return when the session's code has made this file."""
        for _ in range(2000):
            if self.send("HEAD", f"/files/{path}").status_code == 200:
                return
        raise AssertionError(f"the code did not make {path}")

    def let_go(self) -> None:
        """Let the run end that waits for it."""
        self.put("go", b"")

    def result(self, run_id: str, wait: float = 30) -> dict[str, Any]:
        """The run as it is when it has ended, or when so many seconds have passed."""
        run: dict[str, Any] = self.answer("GET", f"/runs/{run_id}?wait={wait}")
        return run

    def history(self) -> list[dict[str, Any]]:
        """The session's latest runs."""
        runs: list[dict[str, Any]] = self.answer("GET", "/runs")["runs"]
        return runs

    @contextmanager
    def streaming(self, code: str, headers: Any = None, **fields: Any) -> Iterator[Iterator[Sse]]:
        """The events of a run, as they come."""
        with self.client.http.stream(
            "POST", f"{self.path}/stream", json={"code": code, **fields}, headers=headers
        ) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["Content-Type"].startswith("text/event-stream")
            yield events_in(response)

    def stream(self, code: str, headers: Any = None, **fields: Any) -> list[Sse]:
        """All events of a run."""
        with self.streaming(code, headers, **fields) as events:
            return list(events)

    def watch(self, run_id: str, last_seen: str | None = None) -> list[Sse]:
        """All events of a run that was begun elsewhere, or those behind the last one seen."""
        headers = {"Last-Event-ID": last_seen} if last_seen else {}
        with self.client.http.stream(
            "GET", f"{self.path}/runs/{run_id}/events", headers=headers
        ) as response:
            assert response.status_code == 200, response.read()
            return list(events_in(response))

    def put(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        """Put a file; underscores in headers' names stand for hyphens. The path goes as it is."""
        return self.send("PUT", f"/files/{path}", content=content, headers=_named(headers))

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Get a file."""
        return self.send("GET", f"/files/{path}", headers=_named(headers))

    def paths(self) -> list[str]:
        """The paths of all files, as listed."""
        return [file["path"] for file in self.answer("GET", "/files")["files"]]

    def delete(self) -> httpx.Response:
        """Delete the session."""
        return self.send("DELETE")


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}

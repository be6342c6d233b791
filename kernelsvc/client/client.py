"""A client of the HTTP API, over httpx."""

from types import TracebackType
from typing import Any, Self

import httpx

from kernelsvc.models.execution import Executed
from kernelsvc.models.problem import Problem
from kernelsvc.models.run import Run
from kernelsvc.models.session import Session


class ServiceError(Exception):
    """The service refused a request; `problem` is what it said."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(problem.error)
        self.status = status
        self.problem = problem


class Client:
    """Speaks to the service at `url`. A context manager; raises ServiceError and httpx's errors.

    `api_key` goes with every request; ValueError where no header can carry it.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the API key holds characters that a key cannot have")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        # A run takes as long as it takes; its own timeout is the service's to enforce.
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=httpx.Timeout(30.0, read=None)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def create_session(self, language: str, **fields: Any) -> Session:
        """Make a session; the fields are those of the API."""
        body = self._send("POST", "/api/sessions", {"language": language, **fields})
        return Session.model_validate(body)

    def session(self, session_id: str) -> Session:
        """The session as it is now."""
        return Session.model_validate(self._send("GET", f"/api/sessions/{session_id}"))

    def delete_session(self, session_id: str) -> None:
        """End the session."""
        self._send("DELETE", f"/api/sessions/{session_id}")

    def run(self, session_id: str, code: str, **fields: Any) -> Run:
        """Run code and wait for the result; the fields are those of the API."""
        body = self._send("POST", f"/api/sessions/{session_id}/run", {"code": code, **fields})
        return Run.model_validate(body)

    def execute(self, language: str, code: str, **fields: Any) -> Executed:
        """Run code in a kernel of its own, which is gone afterwards; the fields are the API's."""
        body = self._send("POST", "/api/execute", {"language": language, "code": code, **fields})
        return Executed.model_validate(body)

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body)
        if answer.is_success:
            return answer.json()
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValueError:
            # Something that is no kernelsvc answers at this address.
            problem = Problem(
                error=f"{answer.url} answered {answer.status_code}, not as kernelsvc does",
                code="not_kernelsvc",
                request_id="",
            )
        raise ServiceError(answer.status_code, problem)

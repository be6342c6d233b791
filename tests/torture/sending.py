"""Sending requests, one alone or several at the same time, and telling the model of the answers."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

import httpx

from tests.torture.expectations import Fate
from tests.torture.file_requests import Read
from tests.torture.journal import Journal
from tests.torture.model import Model
from tests.torture.requests import Act, Copy, Delete, Request
from tests.torture.run_requests import Run
from tests.torture.service import Service
from tests.torture.violation import hold

Answered = tuple[Request, httpx.Response | None]
_AT_ONCE: Final = 8
_MAY_BE_BUSY: Final = frozenset({409})
_MAY_BE_GONE: Final = frozenset({404, 409})


class Sender:
    """Sends to a service and keeps the model true."""

    def __init__(self, service: Service, model: Model, journal: Journal) -> None:
        self._service = service
        self._model = model
        self._journal = journal
        self._lock = threading.Lock()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request, which is not written down; it must be answered."""
        return self._service.http.request(method, path, **options)

    def json(self, path: str) -> Any:
        """What is at this path."""
        answer = self.ask("GET", path)
        hold(answer.status_code == 200, f"GET {path} is answered with", answer.status_code)
        return answer.json()

    def send(self, request: Request) -> httpx.Response | None:
        """Send it; None where the service ends before it has answered."""
        with self._lock:
            self._journal.operations[request.operation] += 1
            self._journal.sent(request.operation, request.method, request.path, request.summary)
        try:
            answer = self.ask(request.method, request.path, **request.content)
        except httpx.TransportError:
            answer = None
        with self._lock:
            self._journal.answered(request.operation, request.path, answer)
        return answer

    def alone(self, request: Request) -> None:
        """Send one request, and tell the model."""
        answer = self.send(request)
        hold(answer is not None, "no answer to", request)
        assert answer is not None
        request.check_status(answer)
        self._did(request, answer, frozenset())

    def together(
        self, requests: Sequence[Request], meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Send requests at the same time, and tell the model.

        `meanwhile` is called when the first of them is answered, and ends the service.
        """
        fates = self._sent(requests)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            sent = [threads.submit(self.send, request) for request in requests]
            if meanwhile is not None:
                wait(sent, return_when=FIRST_COMPLETED)
                meanwhile()
        self._tell(requests, sent, fates, is_ended=meanwhile is not None)

    def _sent(self, requests: Sequence[Request]) -> dict[str, frozenset[Fate]]:
        """All have been sent: what may become of each session's kernel."""
        fates: dict[str, frozenset[Fate]] = {}
        for request in requests:
            self._model.sessions[request.session_id].is_alone = False
            if request.fate is not None and not isinstance(request, Run):
                known = fates.get(request.session_id, frozenset())
                fates[request.session_id] = known | {request.fate}
        # Copies last: they may have whatever the others do.
        for request in sorted(requests, key=lambda one: isinstance(one, Copy)):
            request.may(self._model)
        return fates

    def _tell(
        self,
        requests: Sequence[Request],
        sent: Sequence[Future[httpx.Response | None]],
        fates: dict[str, frozenset[Fate]],
        *,
        is_ended: bool,
    ) -> None:
        answers = [
            (request, future.result()) for request, future in zip(requests, sent, strict=True)
        ]
        deleted = {request.session_id for request in requests if isinstance(request, Delete)}
        for request, answer in sorted(answers, key=_place):
            if answer is None:
                continue
            session_id, others = request.session_id, frozenset[int]()
            if session_id in deleted:
                others = _MAY_BE_GONE
            elif isinstance(request, Act):
                others = _MAY_BE_BUSY
            done = request.check_status(answer, others)
            if session_id in deleted and not isinstance(request, Delete | Copy):
                continue
            if done:
                self._did(request, answer, fates.get(session_id, frozenset()))
            elif isinstance(request, Copy):
                request.failed(self._model)
        for request, answer in answers:
            hold(answer is not None or is_ended, "no answer to", request)
            if answer is None:
                request.never_answered(self._model)
        for session_id, session in self._model.sessions.items():
            session.is_alone = True
            for fate in fates.get(session_id, ()):
                session.may_have(fate)
        for request, answer in answers:
            left = self._model.sessions.get(request.session_id)
            if answer is None and isinstance(request, Run) and left is not None:
                left.never_heard(request.script)

    def _did(self, request: Request, answer: httpx.Response, fates: frozenset[Fate]) -> None:
        is_text = isinstance(request, Read) or not answer.content
        told: Any = answer.text if is_text else answer.json()
        if isinstance(request, Run) and answer.status_code == 200:
            self._journal.words[told["memory"]] += 1
        request.did(self._model, told, fates)


def _place(answered: Answered) -> tuple[int, str]:
    """Runs in the order in which they were executed, then the rest, deletions last."""
    request, answer = answered
    if isinstance(request, Run) and answer is not None and answer.is_success:
        return 0, str(answer.json().get("started_at") or "")
    return (2 if isinstance(request, Delete) else 1), ""

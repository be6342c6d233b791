"""The requests that are sent, and what the model learns of each answer.

`did` is what is true of an answer. Where requests are sent at the same time, `may` is what is true
while there is none, and `never_answered` what is left to say where there will be none.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import httpx

from tests.torture.expectations import Fate
from tests.torture.model import Model
from tests.torture.scripts import MEMORY_BYTES, canonical
from tests.torture.session import Session
from tests.torture.violation import hold

_SESSIONS: Final = "/api/sessions"


@dataclass
class Request:
    """One request. `statuses` are those that it may be answered with when nothing interferes."""

    operation: str
    session_id: str
    method: ClassVar[str] = "POST"
    statuses: ClassVar[frozenset[int]] = frozenset({200})

    @property
    def path(self) -> str:
        """Where it goes."""
        return f"{_SESSIONS}/{self.session_id}"

    @property
    def content(self) -> dict[str, Any]:
        """What httpx is to send."""
        return {}

    @property
    def summary(self) -> str:
        """What it asks for, for the report."""
        body = self.content.get("json", self.content.get("content", ""))
        return body.decode() if isinstance(body, bytes) else canonical(body) if body else ""

    @property
    def fate(self) -> Fate | None:
        """What may become of the session's kernel by it."""
        return None

    @property
    def touches(self) -> list[str]:
        """The sessions that are to be checked afterwards."""
        return [self.session_id]

    def may(self, model: Model) -> None:
        """It has been sent."""
        if self.fate is not None:
            model.sessions[self.session_id].may_have(self.fate)

    def check_status(self, answer: httpx.Response, others: frozenset[int] = frozenset()) -> bool:
        """Whether it was done; raises Violation where it should have been."""
        right = answer.status_code in self.statuses | others
        hold(right, f"{self.operation} is answered with", answer.status_code, answer.text)
        return answer.is_success

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It has been answered, with success; `answer` is the JSON."""
        session = model.sessions[self.session_id]
        if self.fate is not None and session.is_alone:
            session.befell(self.fate)

    def never_answered(self, model: Model) -> None:
        """The service ended before it answered."""
        if self.session_id in model.sessions:
            self.may(model)


@dataclass
class Create(Request):
    """Make a session."""

    session: Session = field(default_factory=lambda: Session(""))
    statuses = frozenset({201})

    @property
    def path(self) -> str:
        """Where sessions are made."""
        return _SESSIONS

    @property
    def content(self) -> dict[str, Any]:
        """The session's settings; its data are its own from the beginning."""
        body: dict[str, Any] = {"language": "python", "session_id": self.session_id}
        body |= {"on_timeout": self.session.on_timeout, "limits": {"memory": MEMORY_BYTES}}
        body |= {"sleep_after": 0.2 if self.session.dozes else "never"}
        return {"json": body}

    def may(self, model: Model) -> None:
        """It may be there."""
        model.may_be[self.session_id] = self.session

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It is there."""
        hold(answer["id"] == self.session_id, "another session was made", answer)
        model.sessions[self.session_id] = model.may_be.pop(self.session_id, self.session)

    def never_answered(self, model: Model) -> None:
        """It may be there."""
        self.may(model)


@dataclass
class Act(Request):
    """Sleep, wake, restart or interrupt."""

    what: str = ""
    _fates: ClassVar[dict[str, Fate]] = {
        "sleep": Fate.SLEPT,
        "restart": Fate.RESTARTED,
        "interrupt": Fate.INTERRUPTED,
    }

    @property
    def path(self) -> str:
        """Where it is asked for."""
        return f"{super().path}/{self.what}"

    @property
    def fate(self) -> Fate | None:
        """What it is for the kernel."""
        return self._fates.get(self.what)

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It was done."""
        if self.fate is Fate.INTERRUPTED:
            return
        super().did(model, answer, meanwhile)
        if model.sessions[self.session_id].is_alone and self.what == "sleep":
            hold(answer["state"] == "sleeping", "a session was put to sleep and is", answer)

    def may(self, model: Model) -> None:
        """It may have been done; an interrupt hurts nothing but runs, which are told of it."""
        if self.fate is not Fate.INTERRUPTED:
            super().may(model)

    def never_answered(self, model: Model) -> None:
        """The old kernel may have ended, and no new one have come: the next service replaces it."""
        super().never_answered(model)
        if self.fate is Fate.RESTARTED and self.session_id in model.sessions:
            model.sessions[self.session_id].may_have(Fate.KILLED)


@dataclass
class Patch(Request):
    """Set the session's data."""

    data: dict[str, Any] = field(default_factory=dict)
    method = "PATCH"

    @property
    def content(self) -> dict[str, Any]:
        """The data."""
        return {"json": {"data": self.data}}

    def may(self, model: Model) -> None:
        """They may be these."""
        model.sessions[self.session_id].data |= {canonical(self.data)}

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """They are these, unless a run has changed them at the same time."""
        session = model.sessions[self.session_id]
        if session.is_alone:
            shown = answer["session"]["data"]
            hold(shown == self.data, "data were set and are", shown, self.data)
            session.data = frozenset({canonical(self.data)})


@dataclass
class Copy(Request):
    """Duplicate or fork a session; all copies come to be, or none."""

    new_ids: tuple[str, ...] = ()
    is_fork: bool = False
    statuses = frozenset({201})

    @property
    def path(self) -> str:
        """Where copies are made."""
        return f"{super().path}/{'fork' if self.is_fork else 'duplicate'}"

    @property
    def content(self) -> dict[str, Any]:
        """What the copies are called."""
        if self.is_fork:
            return {"json": {"session_ids": list(self.new_ids)}}
        (new_id,) = self.new_ids
        return {"json": {"new_id": new_id}}

    @property
    def touches(self) -> list[str]:
        """All of them."""
        return [self.session_id, *self.new_ids]

    def may(self, model: Model) -> None:
        """The copies may be there."""
        for new_id in self.new_ids:
            model.may_be[new_id] = self._copy(model, new_id)

    @property
    def _is(self) -> Fate:
        return Fate.FORKED if self.is_fork else Fate.COPIED

    def _copy(self, model: Model, new_id: str) -> Session:
        return model.sessions[self.session_id].copy(new_id, self._is)

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """The copies are there."""
        made = answer["sessions"] if self.is_fork else [answer]
        found = tuple(one["id"] for one in made)
        hold(found == self.new_ids, "the copies are others", answer)
        for new_id in self.new_ids:
            copy = model.may_be.pop(new_id, None) or self._copy(model, new_id)
            model.sessions[new_id] = copy
        model.sessions[self.session_id].was_copied(self._is)

    def failed(self, model: Model) -> None:
        """There are none."""
        for new_id in self.new_ids:
            model.may_be.pop(new_id)


@dataclass
class Delete(Request):
    """Delete a session."""

    method = "DELETE"

    def may(self, model: Model) -> None:
        """Nothing, until it is known."""

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It has gone."""
        del model.sessions[self.session_id]

    def never_answered(self, model: Model) -> None:
        """It is there or not, whole or not."""
        if (session := model.sessions.pop(self.session_id, None)) is not None:
            session.is_doomed = True
            model.may_be[self.session_id] = session

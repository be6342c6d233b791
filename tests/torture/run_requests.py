"""Requests for runs."""

from dataclasses import dataclass, field
from typing import Any

from tests.torture.expectations import Fate
from tests.torture.model import Model
from tests.torture.requests import Request
from tests.torture.scripts import Script


@dataclass
class Run(Request):
    """Run a script."""

    script: Script = field(default_factory=lambda: Script("", ""))

    @property
    def path(self) -> str:
        """Where runs are sent."""
        return f"{super().path}/run"

    @property
    def content(self) -> dict[str, Any]:
        """The script's code and how it is to be run."""
        return {"json": self.script.body}

    @property
    def summary(self) -> str:
        """The script without what all have in common."""
        return repr(self.script)

    @property
    def fate(self) -> Fate | None:
        """What it does to its kernel; no other run is hurt by that, but the words are."""
        return self.script.fate

    def may(self, model: Model) -> None:
        """It may have changed anything."""
        model.sessions[self.session_id].may_run(self.script)

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It has run."""
        model.sessions[self.session_id].ran(self.script, answer, meanwhile)

    def never_answered(self, model: Model) -> None:
        """It may be in the history, too."""
        if (session := model.sessions.get(self.session_id)) is not None:
            session.may_run(self.script)
            session.unanswered.append(self.script.code)


@dataclass
class Begin(Run):
    """Run a script in the background."""

    statuses = frozenset({202})

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It has been taken, so it will be in the history whatever comes."""
        session = model.sessions[self.session_id]
        session.begun[answer["run_id"]] = self.script
        if self.script.mark is not None:
            session.marks.add(self.script.mark)

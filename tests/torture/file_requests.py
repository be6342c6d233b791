"""Requests for files."""

from dataclasses import dataclass
from typing import Any

from tests.torture.expectations import Fate
from tests.torture.model import Model
from tests.torture.requests import Request


@dataclass
class Put(Request):
    """Put a file."""

    file: str = ""
    text: str = ""
    method = "PUT"
    statuses = frozenset({200, 201, 204})

    @property
    def path(self) -> str:
        """Where the file is."""
        return f"{super().path}/files/{self.file}"

    @property
    def content(self) -> dict[str, Any]:
        """What is in it."""
        return {"content": self.text.encode()}

    def may(self, model: Model) -> None:
        """It may be there."""
        model.sessions[self.session_id].may_write(self.file, self.text)

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It is there."""
        model.sessions[self.session_id].wrote(self.file, self.text)


@dataclass
class Read(Request):
    """Get a file."""

    file: str = ""
    method = "GET"

    @property
    def path(self) -> str:
        """Where the file is."""
        return f"{super().path}/files/{self.file}"

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It is as it was put; `answer` is its text."""
        model.sessions[self.session_id].found_file(self.file, answer)


@dataclass
class Unlink(Request):
    """Delete a file."""

    file: str = ""
    method = "DELETE"
    statuses = frozenset({200, 204})

    @property
    def path(self) -> str:
        """Where the file is."""
        return f"{super().path}/files/{self.file}"

    def may(self, model: Model) -> None:
        """It may have gone."""
        model.sessions[self.session_id].may_write(self.file, None)

    def did(self, model: Model, answer: Any, meanwhile: frozenset[Fate]) -> None:
        """It has gone."""
        model.sessions[self.session_id].wrote(self.file, None)

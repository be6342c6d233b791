"""All sessions that must be there. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.torture.expectations import Fate
from tests.torture.session import LOST, Session
from tests.torture.violation import hold


@dataclass
class Model:
    """All sessions there are, and those of which nobody knows whether they are there."""

    sessions: dict[str, Session] = field(default_factory=dict)
    may_be: dict[str, Session] = field(default_factory=dict)

    def listed(self, ids: Iterable[str]) -> None:
        """The service has listed its sessions."""
        there = set(ids)
        lost = self.sessions.keys() - there
        hold(not lost, "sessions are lost:", sorted(lost))
        strange = there - self.sessions.keys() - self.may_be.keys()
        hold(not strange, "sessions that should not be there:", sorted(strange))

    def befell_all(self, fate: Fate) -> None:
        """The service has come to an end."""
        for session in [*self.sessions.values(), *self.may_be.values()]:
            session.befell(fate)
        if fate in (Fate.CRASHED, Fate.ORPHANED):
            for session in self.may_be.values():
                # A copy that nobody has been told of need not be there with its memory.
                session.words |= LOST

    @property
    def marks(self) -> Iterator[str]:
        """Those of all processes that may be there."""
        for session in self.sessions.values():
            yield from session.marks

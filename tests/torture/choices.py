"""Which request comes next: by the seed, and by what the model says is possible."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from tests.torture import scripts
from tests.torture.file_requests import Put, Read, Unlink
from tests.torture.model import Model
from tests.torture.requests import Act, Copy, Create, Delete, Patch, Request
from tests.torture.run_requests import Begin, Run
from tests.torture.scripts import Script, canonical
from tests.torture.session import Session
from tests.torture.world import MARK

MOST_SESSIONS: Final = 6
_COPIES: Final = (1, 1, 2, 3)
"""How many copies a fork makes."""
_FILES: Final = tuple(f"file-{number}" for number in range(4))

HOLD: Final = "run that holds much"
BE_DEAF: Final = "run that times out and is deaf"
_RUNS: Final[dict[str, tuple[int, Callable[..., Script]]]] = {
    "run": (20, scripts.run),
    "run that prints much": (3, scripts.much),
    HOLD: (2, scripts.hold),
    "run that fails": (4, scripts.fail),
    "run that exits": (4, scripts.leave),
    "run that ends its kernel": (8, scripts.die),
    "run out of memory": (2, scripts.run_out),
    "run that times out": (4, scripts.time_out),
    "run that times out and gives way": (4, scripts.give_way),
    BE_DEAF: (1, scripts.be_deaf),
}
_RANDOM: Final = {scripts.die, scripts.time_out, scripts.give_way}
_OTHERS: Final = {
    "create": 5,
    "background": 8,
    "sleep": 8,
    "wake": 4,
    "restart": 4,
    "interrupt": 2,
    "duplicate": 4,
    "fork": 4,
    "put": 5,
    "get": 5,
    "delete file": 3,
    "data": 4,
    "delete": 8,
}
KILL_KERNEL: Final = "kill the kernel from outside"
HOLD_AND_BE_DEAF: Final = "hold much and be deaf"
TOGETHER: Final = "together"
_SPECIAL: Final = {KILL_KERNEL: 5, HOLD_AND_BE_DEAF: 1, TOGETHER: 8}
_NOT_TOGETHER: Final = {"create", "get", "delete file", "background"}


@dataclass
class Choices:
    """Chooses by a seed. `can_fork` tells whether the service can."""

    random: Random
    model: Model
    can_fork: bool
    _made: int = field(default=0)

    def operation(self, *, together: bool = False) -> str:
        """The name of the next operation."""
        if not self.model.sessions:
            return "create"
        weights = {name: weight for name, (weight, _) in _RUNS.items()} | _OTHERS
        weights |= {} if together else _SPECIAL
        left_out = _NOT_TOGETHER if together else set()
        if not self.can_fork:
            left_out = left_out | {"fork"}
        if len(self.model.sessions) >= MOST_SESSIONS:
            left_out = left_out | {"create", "duplicate", "fork"}
        names = [name for name in weights if name not in left_out]
        return self.random.choices(names, [weights[name] for name in names])[0]

    def session(self) -> Session:
        """One of the sessions."""
        return self.random.choice(list(self.model.sessions.values()))

    def request(self, operation: str, session: Session | None, *, alone: bool = True) -> Request:
        """The request for an operation; `session` is None where one is to be made."""
        if session is None or operation == "create":
            new = Session(
                self._new("s"),
                self.random.choice(["restart", "interrupt"]),
                dozes=self.random.random() < 0.25,
            )
            return Create("create", new.id, new)
        if operation in _RUNS:
            make = _RUNS[operation][1]
            if operation == HOLD and session.has_lent:
                make = scripts.hold_again
            return Run(operation, session.id, self._script(make, session))
        match operation:
            case "background":
                waits = not session.begun and self.random.random() < 0.7
                make = scripts.wait if waits else scripts.later
                return Begin(operation, session.id, self._script(make, session))
            case "sleep" | "wake" | "restart" | "interrupt":
                return Act(operation, session.id, operation)
            case "duplicate" | "fork":
                number = self.random.choice(_COPIES) if operation == "fork" else 1
                made = tuple(self._new("c") for _ in range(number))
                return Copy(operation, session.id, made, operation == "fork")
            case "put":
                file = self.random.choice(_FILES) if alone else self._new("put-")
                return Put(operation, session.id, file, self._text(session))
            case "data":
                return Patch(operation, session.id, self._data(session))
            case "delete":
                return Delete(operation, session.id)
        files = [path for path, contents in session.files.items() if None not in contents]
        if not files:
            return Put("put", session.id, self.random.choice(_FILES), self._text(session))
        kind = Read if operation == "get" else Unlink
        return kind(operation, session.id, self.random.choice(files))

    def _script(self, make: Callable[..., Script], session: Session) -> Script:
        common: dict[str, Any] = {
            "nonce": self._new("n"),
            "token": f"{session.id}-{self.random.getrandbits(48):012x}",
        }
        if self.random.random() < 0.4:
            common["files"] = {self.random.choice(_FILES): self._text(session)}
        if self.random.random() < 0.4:
            common["data"] = canonical(self._data(session))
        if self.random.random() < 0.15:
            common["mark"] = f"{MARK}{self.random.getrandbits(40)}"
        if make in _RANDOM:
            common["random"] = self.random
        return make(**common)

    def _new(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}{self._made}"

    def _text(self, session: Session) -> str:
        return f"{session.id} {self.random.getrandbits(48):012x}"

    def _data(self, session: Session) -> dict[str, Any]:
        return {"of": session.id, "n": self.random.getrandbits(16)}

"""What each method of a handler takes and answers, declared beside it.

Read by the base, which refuses query parameters that are not declared, and by the OpenAPI document,
which is made of nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from kernelsvc.errors import KernelsvcError

MethodT = TypeVar("MethodT", bound=Callable[..., Any])

THEN: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""The time in examples' answers."""

_DECLARED = "__operation__"


@dataclass(frozen=True)
class Bytes:
    """A body that is no JSON; `kind` is its Content-Type."""

    kind: str = "application/octet-stream"


Content = type[BaseModel] | Bytes | None
"""What a body holds; None for no body."""


@dataclass(frozen=True)
class Parameter:
    """A query parameter or a request header, with its JSON schema.

    The name of a query parameter that ends in "." stands for all that begin with it. `example` is
    a value of one that is in the path.
    """

    name: str
    about: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    example: str | None = None


@dataclass(frozen=True)
class Attached:
    """An example's body that is a file; what is in it, nobody could read."""

    name: str


@dataclass(frozen=True)
class Example:
    """A request that can be made as it stands, where its path names what there is.

    One whose path names no session may be made where there is none. `body` is JSON, or text for
    what is no JSON. `answer` is what comes back, times and the like aside; None where it is long.
    """

    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)
    answer: BaseModel | None = None


@dataclass(frozen=True)
class Operation:
    """One method on one path.

    `answers` are what it says where all went well, `headers` what those answers have besides the
    usual. `errors` are what it may raise besides what every operation may; `refusals` the statuses
    that it answers without one. What it `passes_on` may have any status.
    """

    answers: Mapping[HTTPStatus, Content]
    body: Content = None
    query: tuple[Parameter, ...] = ()
    request_headers: tuple[Parameter, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[type[KernelsvcError], ...] = ()
    refusals: tuple[HTTPStatus, ...] = ()
    may_be_unchanged: bool = False
    body_may_be_missing: bool = False
    passes_on: bool = False
    example: Example | None = None

    @property
    def shown(self) -> Example | None:
        """Its example: where it takes no body, the plain request is one."""
        return Example() if self.example is None and self.body is None else self.example

    @property
    def query_names(self) -> tuple[str, ...]:
        """The query parameters that it takes."""
        return tuple(parameter.name for parameter in self.query)


def operation(
    answers: Content | Mapping[HTTPStatus, Content], **details: Any
) -> Callable[[MethodT], MethodT]:
    """Declare what a handler's method does; `answers` alone is that of a 200.

    The first sentence of the method's docstring is its summary.
    """
    by_status = answers if isinstance(answers, Mapping) else {HTTPStatus.OK: answers}

    def declare(method: MethodT) -> MethodT:
        setattr(method, _DECLARED, Operation(by_status, **details))
        return method

    return declare


def declared(method: Callable[..., Any] | None) -> Operation | None:
    """What was declared of a handler's method, if anything was."""
    found: Operation | None = getattr(method, _DECLARED, None)
    return found

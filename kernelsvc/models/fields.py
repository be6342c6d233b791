"""Field types that several models share, with the words for what is wrong with a value."""

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    StrictStr,
    ValidationInfo,
    WithJsonSchema,
)

from kernelsvc.models.limits import Limits

NEVER: Final = "never"
MAX_JSON_DEPTH: Final = 100

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
# No user and password, which would be kept and logged, and no fragment, which is never sent.
_URL = re.compile(r"https?://[^\s/?#@\x00-\x20\x7f-\U0010ffff]+(?:[/?][!-\"$-~]{0,2000})?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Bounds:
    """What the configuration allows a request to ask for; given as the validation context."""

    max_timeout: float
    max_data_bytes: int
    max_limits: Limits


class OnTimeout(StrEnum):
    """What becomes of the kernel when a run times out.

    `restart` replaces it always; `interrupt` keeps it, memory and all, where the interrupt alone
    ended the run.
    """

    RESTART = "restart"
    INTERRUPT = "interrupt"


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _timeout(value: Any, info: ValidationInfo) -> float | None:
    if value is None:
        return None
    most = info.context.max_timeout if isinstance(info.context, Bounds) else math.inf
    number = _number(value)
    if number is None or not 0 < number <= most:
        raise ValueError(f"must be a number of seconds greater than 0 and at most {most:g}")
    return number


def parse_duration(value: Any) -> float:
    """Seconds from a number, a duration such as "5m", or "never" (infinity).

    Raises ValueError for anything else, zero and below included.
    """
    if value == NEVER:
        return math.inf
    number = _number(value)
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        number = _number(float(match[1]) * _UNIT_SECONDS[match[2]])
    if number is None or number <= 0:
        raise ValueError('must be seconds greater than 0, a duration such as "5m", or "never"')
    return number


def _sleep_after(value: Any) -> float | None:
    return None if value is None else parse_duration(value)


def _session_id(value: str) -> str:
    if not _SESSION_ID.fullmatch(value):
        raise ValueError(
            "must be 1 to 128 letters, digits and . _ : - beginning with a letter or a digit"
        )
    return value


def _environment(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _VARIABLE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name for an environment variable")
        if name.startswith("ERA_"):
            raise ValueError(f"{name!r} is set by the service and cannot be given")
        if not fits_into_a_program(text):
            raise ValueError(f"{name!r} holds a character that the environment cannot")
    return value


def fits_into_a_program(text: str) -> bool:
    """Whether it can be an argument or in the environment."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _json_object(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    if (problem := json_problem(value)) is not None:
        raise ValueError(problem)
    most = info.context.max_data_bytes if isinstance(info.context, Bounds) else math.inf
    if len(json.dumps(value)) > most:
        raise ValueError(f"is larger than {most} bytes of JSON")
    return value


def json_problem(value: Any, depth: int = 0) -> str | None:
    """Why a parsed value cannot go out as JSON again; None where it can."""
    if depth > MAX_JSON_DEPTH:
        return f"is nested more than {MAX_JSON_DEPTH} levels deep"
    match value:
        case float() if not math.isfinite(value):
            return "holds NaN or an infinity, which JSON cannot"
        case dict():
            problems = (json_problem(item, depth + 1) for item in value.values())
        case list():
            problems = (json_problem(item, depth + 1) for item in value)
        case _:
            return None
    return next((problem for problem in problems if problem is not None), None)


def iso(time: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond, ending in Z."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _code(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty: there is nothing to run")
    if "\0" in value:
        raise ValueError("holds a NUL character, which source code cannot")
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds a lone surrogate at character {error.start}") from None
    return value


def _stored_code(value: str, info: ValidationInfo) -> str:
    most = info.context.max_data_bytes if isinstance(info.context, Bounds) else math.inf
    if (size := len(value.encode())) > most:
        raise ValueError(f"is {size} bytes long, and at most {most} are stored")
    return value


def _limits(value: Limits, info: ValidationInfo) -> Limits:
    if isinstance(info.context, Bounds):
        for name, problem in value.beyond(info.context.max_limits).items():
            raise ValueError(f"{name} {problem}")
    return value


def _callback_url(value: Any) -> str | None:
    if value is None:
        return None
    problem = "must be a URL such as https://example.com/done, of http or https"
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise ValueError(problem)
    try:
        parts = urlsplit(value)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError(problem)
    return value


_MAYBE_NULL = {"type": "null"}
_SECONDS = {"type": "number", "exclusiveMinimum": 0}
_A_DURATION = {"type": "string", "pattern": f"^(?:{_DURATION.pattern}|{NEVER})$"}

Text = Annotated[StrictStr, AfterValidator(_text)]
"""Text that is any characters, but whole ones."""
SourceCode = Annotated[Text, AfterValidator(_code)]
StorableCode = Annotated[SourceCode, AfterValidator(_stored_code)]
SessionLimits = Annotated[Limits, AfterValidator(_limits)]
Timeout = Annotated[
    float | None, BeforeValidator(_timeout), WithJsonSchema({"anyOf": [_SECONDS, _MAYBE_NULL]})
]
SleepAfter = Annotated[
    float | None,
    BeforeValidator(_sleep_after),
    WithJsonSchema({"anyOf": [_SECONDS, _A_DURATION, _MAYBE_NULL]}),
]
CallbackUrl = Annotated[
    str | None,
    BeforeValidator(_callback_url),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^https?://[^ ]+$"}, _MAYBE_NULL]}),
]
SessionId = Annotated[
    str,
    AfterValidator(_session_id),
    WithJsonSchema({"type": "string", "pattern": f"^{_SESSION_ID.pattern}$"}),
]
Environment = Annotated[
    dict[str, str],
    AfterValidator(_environment),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": f"^(?!ERA_){_VARIABLE_NAME.pattern}$"},
            "additionalProperties": {"type": "string"},
        }
    ),
]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_object)]
UtcTime = PlainSerializer(
    iso,
    return_type=Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})],
    when_used="json",
)

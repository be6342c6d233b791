"""What a session may use of the machine: asked for in a request, bounded by the configuration."""

import re
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])?i?B?", re.IGNORECASE)
_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MOST_BYTES: Final = 1 << 62


def parse_size(value: Any) -> int | None:
    """Bytes from a whole number or a size such as "512MiB" or "2G" (units of 1024).

    Raises ValueError for anything else, zero and below included.
    """
    if value is None:
        return None
    size: int | None = None
    value = whole(value)
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and len(value) <= 32 and (match := _SIZE.fullmatch(value)):
        size = int(float(match[1]) * _FACTORS[(match[2] or "").upper()])
    if size is None or not 0 < size <= _MOST_BYTES:
        raise ValueError('must be a whole number of bytes above 0, or a size such as "512MiB"')
    return size


def whole(value: Any) -> Any:
    """A number that JSON has written as 2.0 is as whole as 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _count(value: Any) -> int | None:
    if value is None:
        return None
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST_BYTES:
        raise ValueError("must be a whole number above 0")
    return value


def _cores(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1 << 20:
        raise ValueError("must be a number of processors above 0, such as 0.5 or 2")
    return float(value)


class LimitExceeded(NamedTuple):
    """Why a kernel was killed that had taken too much; `name` is as an exception's."""

    name: str
    message: str


def readable_size(size: int) -> str:
    """Bytes for people: 2 GiB, 512 MiB, 1.5 KiB."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


_MAYBE_NULL = {"type": "null"}
_A_COUNT = {"type": "integer", "exclusiveMinimum": 0, "maximum": _MOST_BYTES}
_A_SIZE = {"type": "string", "pattern": "^[0-9]+([.][0-9]+)? ?[KMGTkmgt]?[Ii]?[Bb]?$"}
_SOME_CORES = {"type": "number", "exclusiveMinimum": 0}

Size = Annotated[
    int | None,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [_A_COUNT, _A_SIZE, _MAYBE_NULL]}),
]
Count = Annotated[
    int | None, BeforeValidator(_count), WithJsonSchema({"anyOf": [_A_COUNT, _MAYBE_NULL]})
]
Cores = Annotated[
    float | None, BeforeValidator(_cores), WithJsonSchema({"anyOf": [_SOME_CORES, _MAYBE_NULL]})
]


class Limits(BaseModel):
    """What a session may use; None where nothing was said.

    `memory` (bytes) and `cpu` (processors) hold for all processes of the session together, as do
    `processes` (threads count) and `disk` (bytes of its workspace). `open_files` and `file_size`
    (bytes) hold for each process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory: Size = None
    processes: Count = None
    cpu: Cores = None
    disk: Size = None
    open_files: Count = None
    file_size: Size = None

    def over(self, defaults: Self) -> Self:
        """These limits, with the defaults where they say nothing."""
        return defaults.model_copy(update=self.model_dump(exclude_none=True))

    def beyond(self, most: Self) -> dict[str, str]:
        """The limits that are above `most`, each with what is wrong with it."""
        return {
            name: f"must be at most {allowed:g} here"
            if isinstance(allowed, float)
            else f"must be at most {allowed} here"
            for name, allowed in most.model_dump(exclude_none=True).items()
            if (wanted := getattr(self, name)) is not None and wanted > allowed
        }


DEFAULT_LIMITS: Final = Limits(
    memory="2GiB",
    processes=256,
    cpu=4,
    disk="1GiB",
    open_files=1024,
    file_size="1GiB",
)
"""What holds for a session that asks for nothing, where the configuration says nothing else."""

HIGHEST_LIMITS: Final = Limits(
    memory="16GiB",
    processes=4096,
    cpu=64,
    disk="20GiB",
    open_files=65536,
    file_size="20GiB",
)
"""The most that a session may ask for, where the configuration says nothing else."""

"""JSON of whatever code may have left in its data, made and read as fast as can be."""

import json
from typing import Any

import orjson
import pydantic_core


def to_json(plain: Any) -> bytes:
    """JSON in UTF-8 and in one line, of what JSON has: `model_dump(mode="json")` of a model."""
    try:
        return orjson.dumps(plain)
    except orjson.JSONEncodeError:
        # Lone surrogates, which are escaped, integers of more than 64 bits, deep nesting.
        return json.dumps(plain).encode()


def from_json(text: bytes | str) -> Any:
    """What JSON says; raises ValueError where it is none."""
    try:
        # Beside orjson's, its numbers are exact at any size.
        return pydantic_core.from_json(text)
    except ValueError:
        # Lone surrogates and deep nesting, which only the standard library takes.
        return json.loads(text)

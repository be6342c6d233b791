"""What a run of stored code answers a request with, as ERA reads it from what the code printed.

JSON is the answer's body, all of it; of an object, `status`, `contentType` and `headers` are also
those of the answer. Anything else is plain text, with status 200, or 500 where the run failed.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Never

from kernelsvc.models.run import Run
from kernelsvc.proxy.headers import Headers

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class StoredAnswer:
    """An answer; its headers may be anything that is a header."""

    status: int
    headers: Headers
    body: bytes


def answer_of(run: Run) -> StoredAnswer:
    """The answer that a run's standard output is."""
    text = run.stdout.strip()
    try:
        said = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        said = None
    if said is None:
        status = 200 if run.exit_code == 0 else 500
        return StoredAnswer(status, [("Content-Type", _TEXT)], _bytes(run.stdout))
    if not isinstance(said, dict):
        return StoredAnswer(200, [("Content-Type", _JSON)], _bytes(text))
    headers = _headers(said.get("headers"))
    if not any(name.lower() == "content-type" for name, _ in headers):
        kind = said.get("contentType")
        headers.append(("Content-Type", kind if _is_value(kind) and kind else _JSON))
    return StoredAnswer(_status(said.get("status")), headers, _bytes(text))


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is not JSON")


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _status(value: Any) -> int:
    """A status that an answer can have; code may mean something else by the word."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if re.fullmatch("[2-5][0-9]{2}", text) else 200


def _headers(value: Any) -> Headers:
    if not isinstance(value, dict):
        return []
    texts = {
        name: each if isinstance(each, str) else json.dumps(each) for name, each in value.items()
    }
    return [
        (name, text.strip())
        for name, text in texts.items()
        if _NAME.fullmatch(name) and _is_value(text)
    ]


def _is_value(value: Any) -> bool:
    return isinstance(value, str) and _VALUE.fullmatch(value) is not None

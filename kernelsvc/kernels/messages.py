"""Jupyter messages (protocol 5.x) to events and back; past this module nobody sees a message dict.

The kernel is the user's to alter, so a message may be anything: one that does not look as the
protocol says is dropped.
"""

import hmac
import re
from typing import Any

from jupyter_client.session import DELIM, Session

from kernelsvc.json_text import from_json
from kernelsvc.kernel_host.wire import METADATA_KEY
from kernelsvc.models.event import (
    ClearOutput,
    Display,
    Event,
    Idle,
    Latest,
    Raised,
    Replied,
    Result,
    Started,
    Text,
    UpdateDisplay,
)
from kernelsvc.models.fields import json_problem
from kernelsvc.models.memory import MemoryTold, NotRestored

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")

_MOST_NAMES = 1001
_MOST_CHARACTERS = 256
"""What is taken over of what a kernel says of variables."""

_NOT_AS_THE_PROTOCOL_SAYS = (
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)

Message = dict[str, Any]


def unpack(session: Session, frames: list[bytes]) -> Message | None:
    """The message in these frames; None for one that is damaged or not signed with the key.

    jupyter_client's own `deserialize` parses every date in every header, which costs a third of a
    short run's time here and nobody reads them.
    """
    try:
        delimiter = frames.index(DELIM)
        signature, *signed = frames[delimiter + 1 : delimiter + 6]
        if len(signed) != 4 or not hmac.compare_digest(session.sign(signed), signature):
            return None
        header, parent, metadata, content = map(from_json, signed)
        return {
            "msg_type": header["msg_type"],
            "parent_header": parent,
            "metadata": metadata,
            "content": content,
        }
    except _NOT_AS_THE_PROTOCOL_SAYS:
        return None


def execute_content(code: str, *, counted: bool = True) -> Message:
    """The content of an execute request: nothing queued behind a failure is aborted.

    One that is not `counted` leaves history and execution count as they are.
    """
    return {
        "code": code,
        "silent": not counted,
        "store_history": counted,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }


def execute_metadata(
    env: dict[str, str],
    stdin: str | None = None,
    snapshot: int | None = None,
    *,
    at_once: bool = False,
) -> Message:
    """The metadata of an execute request: what our kernel sets up for the run.

    Behind it, soon or `at_once`, it takes a snapshot of at most `snapshot` bytes of memory,
    or none.
    """
    wanted = {"env": env, "stdin": stdin, "snapshot": snapshot}
    return {METADATA_KEY: {**wanted, "at_once": True} if at_once else wanted}


def memory_metadata(asked: Message) -> Message:
    """The metadata of a request that has our kernel save or restore what it holds."""
    return {METADATA_KEY: {"memory": asked}}


def parent_id(message: Message) -> str | None:
    """The id of the request that a message is about."""
    parent = message.get("parent_header")
    request_id = parent.get("msg_id") if isinstance(parent, dict) else None
    return request_id if isinstance(request_id, str) else None


def event(message: Message) -> Event | None:
    """What an iopub message says; None for what is of no concern to a run, or not well-formed."""
    try:
        kind = message["msg_type"]
        if kind == "status" and message["content"]["execution_state"] == "idle":
            return _ended(message)
        return _event(kind, message["content"])
    except _NOT_AS_THE_PROTOCOL_SAYS:
        return None


def _event(kind: str, content: Message) -> Event | None:
    match kind:
        case "stream":
            return Text(
                "stderr" if content["name"] == "stderr" else "stdout", clean(content["text"])
            )
        case "status" if content["execution_state"] == "busy":
            return Started()
        case "execute_result":
            return Result(
                _bundle(content["data"]),
                _metadata(content["metadata"]),
                int(content["execution_count"]),
                _display_id(content),
            )
        case "display_data":
            return Display(
                _bundle(content["data"]), _metadata(content["metadata"]), _display_id(content)
            )
        case "update_display_data" if display_id := _display_id(content):
            return UpdateDisplay(
                _bundle(content["data"]), _metadata(content["metadata"]), display_id
            )
        case "clear_output":
            return ClearOutput(bool(content["wait"]))
        case "error":
            return Raised(
                clean(content["ename"]),
                plain(content["evalue"]),
                tuple(plain(line) for line in content["traceback"]),
            )
        case _:
            return None


def reply(message: Message) -> Replied:
    """What an execute_reply says."""
    return _replied(_object_or_empty(message.get("content")))


def latest(message: Message) -> Latest | None:
    """What our kernel says of the latest runs; None for another message, or one not well-formed."""
    if message.get("msg_type") != "latest_reply":
        return None
    said = _object_or_empty(message.get("content"))
    going, ended = said.get("going"), said.get("ended")
    how = _object_or_empty(said.get("how"))
    return Latest(
        going if isinstance(going, str) else None,
        ended if isinstance(ended, str) else None,
        _replied(how) if how else None,
    )


def _ended(idle: Message) -> Idle:
    """The `idle` of a request, with what our kernel adds to it."""
    ended = _object_or_empty(idle.get("metadata")).get(METADATA_KEY)
    if not isinstance(ended, dict):
        return Idle()
    memory = ended.get("memory")
    return Idle(_replied(ended), None if memory is None else _memory(_object(memory)))


def _memory(said: Message) -> MemoryTold:
    if (lost := said.get("lost")) is not None:
        return MemoryTold(lost=_short(lost))
    missing = [NotRestored(name=_short(name), reason=_short(reason))
               for name, reason in said["not_restored"][:_MOST_NAMES]]  # fmt: skip
    return MemoryTold(tuple(map(_short, said["restored"][:_MOST_NAMES])), tuple(missing))


def _short(text: Any) -> str:
    return plain(text)[:_MOST_CHARACTERS]


def _replied(said: Message) -> Replied:
    failed = said.get("status") != "ok"
    ename = said.get("ename")
    exit_code = _whole(said.get("exit_code"))
    return Replied(
        failed=failed,
        ename=ename if isinstance(ename, str) else None,
        exit_code=int(failed) if exit_code is None else exit_code & 0xFF,
        execution_count=_whole(said.get("execution_count")),
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _object_or_empty(value: Any) -> Message:
    return value if isinstance(value, dict) else {}


def clean(text: str) -> str:
    """Text that UTF-8 can carry; lone surrogates become question marks."""
    if not isinstance(text, str):
        raise TypeError("not text")
    return text if text.isascii() else text.encode(errors="replace").decode()


def plain(text: str) -> str:
    """Text without terminal colours."""
    return _ANSI.sub("", clean(text))


def _object(value: Any) -> Message:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _metadata(value: Any) -> Message:
    metadata = _json(_object(value))
    return {} if json_problem(metadata) else dict(metadata)


def _bundle(value: Any) -> Message:
    bundle = ((clean(kind), _json(item)) for kind, item in _object(value).items())
    return {kind: item for kind, item in bundle if json_problem(item) is None}


def _json(value: Any) -> Any:
    """The same JSON value, its texts such as UTF-8 can carry."""
    match value:
        case str():
            return clean(value)
        case dict():
            return {clean(key): _json(item) for key, item in value.items()}
        case list():
            return [_json(item) for item in value]
        case _:
            return value


def _display_id(content: Message) -> str | None:
    display_id = content.get("transient", {}).get("display_id")
    return display_id if isinstance(display_id, str) else None

"""The tools: few, each one request to the API, with the words that a model chooses it by.

What an argument may be is taken from the models of the requests, so that it cannot differ from what
the service takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, StrictStr

from kernelsvc.models.execution import ExecuteRequest
from kernelsvc.models.fields import SessionId, SourceCode
from kernelsvc.models.run import RunRequest
from kernelsvc.models.session import CreateSession

Json = dict[str, Any]

_SESSION: Final = "/api/sessions/{session_id}"
_SEEN_BY_ITSELF: Final = ("title", "default", "description")


class ToolCall(BaseModel):
    """The request that a call of a tool is.

    `path` has arguments in braces, to be percent-encoded; slashes may stay. The body is a JSON
    object of the arguments `json_body`, or the argument `text_body` as it stands, or none.
    `answers` says what comes back.
    """

    method: Literal["GET", "PUT", "POST"]
    path: str
    json_body: list[str] | None = None
    text_body: str | None = None
    answers: Literal["json", "text"] = "json"


class Hints(BaseModel):
    """What a tool does to the world, in the words of MCP."""

    title: str
    readOnlyHint: bool = False
    destructiveHint: bool = False
    idempotentHint: bool = False
    openWorldHint: bool = False


class _InSession(BaseModel):
    """Where a session is meant."""

    session_id: SessionId


class _RunOfCode(RunRequest):
    """A run of code that comes with it; a model has none stored."""

    code: SourceCode


class _OfFile(_InSession):
    """Where a file of a session is meant."""

    path: StrictStr


class _NewFile(_OfFile):
    """A file, and what is to be in it."""

    content: StrictStr


@dataclass(frozen=True)
class Tool:
    """`arguments` are told with what they are for, in the order in which they are best written.

    What they may be is in `models`.
    """

    name: str
    about: str
    arguments: Mapping[str, str]
    models: tuple[type[BaseModel], ...]
    call: ToolCall
    hints: Hints

    def schema(self) -> Json:
        """What the arguments are, as a JSON schema."""
        said = [model.model_json_schema() for model in self.models]
        properties: Json = {}
        for schema in said:
            properties |= schema["properties"]
        required = {name for schema in said for name in schema.get("required", ())}
        return {
            "type": "object",
            "properties": {
                name: {**_bare(properties[name]), "description": about}
                for name, about in self.arguments.items()
            },
            "required": [name for name in self.arguments if name in required],
            "additionalProperties": False,
        }


def _bare(schema: Json) -> Json:
    return {name: value for name, value in schema.items() if name not in _SEEN_BY_ITSELF}


_ID: Final = "The session's id."
_PATH: Final = 'Path relative to the session\'s working directory, such as "data/input.csv".'
_TIMEOUT: Final = (
    "Seconds after which the code is stopped (exit_code 124); null for the service's default."
)
_RESULT: Final = (
    "The answer has exit_code (0 is success), stdout, stderr with the traceback of an exception, "
    "text, which is the value of the last line, and outputs with figures and tables as in a "
    "notebook."
)

TOOLS: Final = (
    Tool(
        "create_session",
        "Make a session: a live kernel with a working directory of its own, whose variables, "
        "imports and files stay from one run_code to the next. Do this once, then use its id.",
        {
            "language": 'Programming language, such as "python".',
            "session_id": "An id of your choice, which must be free; null for a generated one, "
            "which is `id` in the answer.",
        },
        (CreateSession,),
        ToolCall(method="POST", path="/api/sessions", json_body=["language", "session_id"]),
        Hints(title="Create a session"),
    ),
    Tool(
        "run_code",
        "Run code in a session. It finds the variables, imports and files that earlier runs in "
        f'the session left, unless the answer\'s memory is not "kept". {_RESULT}',
        {"session_id": _ID, "code": "The code to run.", "timeout": _TIMEOUT},
        (_InSession, _RunOfCode),
        ToolCall(method="POST", path=_SESSION + "/run", json_body=["code", "timeout"]),
        Hints(title="Run code in a session", destructiveHint=True, openWorldHint=True),
    ),
    Tool(
        "execute_code",
        "Run code once, in a new kernel that is gone afterwards with all variables and files. "
        f"For anything that takes several steps use run_code instead. {_RESULT}",
        {
            "language": 'Programming language, such as "python".',
            "code": "The code to run.",
            "timeout": _TIMEOUT,
            "stdin": "What the code reads from its standard input; null for nothing.",
        },
        (ExecuteRequest,),
        ToolCall(
            method="POST",
            path="/api/execute",
            json_body=["language", "code", "timeout", "stdin"],
        ),
        Hints(title="Run code once", openWorldHint=True),
    ),
    Tool(
        "write_file",
        "Write a text file into a session's working directory, in the place of one that has the "
        "path; directories are made as needed.",
        {"session_id": _ID, "path": _PATH, "content": "All that is to be in the file."},
        (_NewFile,),
        ToolCall(method="PUT", path=_SESSION + "/files/{path}", text_body="content"),
        Hints(title="Write a file", destructiveHint=True, idempotentHint=True),
    ),
    Tool(
        "read_file",
        "Read a file of a session's working directory.",
        {"session_id": _ID, "path": _PATH},
        (_OfFile,),
        ToolCall(method="GET", path=_SESSION + "/files/{path}", answers="text"),
        Hints(title="Read a file", readOnlyHint=True, idempotentHint=True),
    ),
    Tool(
        "list_files",
        "List the files of a session, with their sizes in bytes.",
        {"session_id": _ID},
        (_InSession,),
        ToolCall(method="GET", path=_SESSION + "/files"),
        Hints(title="List the files", readOnlyHint=True, idempotentHint=True),
    ),
    Tool(
        "reset_session",
        "Give a session a new kernel with an empty memory, also where code is still running; its "
        "files stay.",
        {"session_id": _ID},
        (_InSession,),
        ToolCall(method="POST", path=_SESSION + "/restart"),
        Hints(title="Reset a session", destructiveHint=True, idempotentHint=True),
    ),
)

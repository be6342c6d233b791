"""The OpenAPI document, made from the handlers' declarations and the models.

What every operation may answer (a wrong request, a missing key, a service that is stopping) is said
here once. What only some answer is declared beside them.
"""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from kernelsvc.api.base import ApiHandler
from kernelsvc.api.operations import (
    Attached,
    Bytes,
    Content,
    Example,
    Operation,
    Parameter,
    declared,
)
from kernelsvc.api.problems import HTTP_CODES, RETRY_SECONDS, STATUS
from kernelsvc.errors import (
    Forbidden,
    InvalidRequest,
    KernelsvcError,
    ShuttingDown,
    Unauthorized,
    WrongHost,
)
from kernelsvc.models.problem import Problem

Json = dict[str, Any]
Refs = dict[type[BaseModel], Json]

METHODS: Final = ("get", "head", "put", "post", "patch", "delete", "options")
"""The methods that are served anywhere."""

EXAMPLE: Final = "example"
"""The name of each operation's example."""

_IN: Final = "validation"
_OUT: Final = "serialization"
_REF: Final = "#/components/schemas/{model}"
_JSON: Final = "application/json"
_KEY: Final = "key"
_NAMES: Final = re.compile(r"\{(\w+)\}")
_ABOUT: Final = (
    "Code execution in sessions: each has a live kernel and files of its own. From the first key "
    "on that was made, a key is needed; before, only loopback is served."
)
_PATH_PARAMETERS: Final[Mapping[str, Parameter]] = {
    "session_id": Parameter("session_id", "the session", example="example"),
    "run_id": Parameter("run_id", "the run", example="run_8d0b7f2f6c1c4f3a9e5d2b10"),
    "port": Parameter(
        "port", "the port", {"type": "integer", "minimum": 1, "maximum": 65535}, example="8000"
    ),
    "rest": Parameter(
        "rest", "what the server is asked for; may be missing, slash and all", example="hello"
    ),
    "path": Parameter(
        "path", "the file's path in the session; its slashes need not be escaped", example="a.csv"
    ),
}
_ALWAYS: Final = (InvalidRequest, Forbidden, WrongHost)
_WITH_KEY: Final = (Unauthorized, ShuttingDown)


def build(routes: Mapping[str, type[ApiHandler]]) -> Json:
    """The document; `routes` are paths as OpenAPI writes them. Blocks for a moment."""
    operations = [
        (path, method, handler, operation)
        for path, handler in routes.items()
        for method in METHODS
        if (operation := declared(getattr(handler, method))) is not None
    ]
    refs, schemas = _schemas(operation for _, _, _, operation in operations)
    paths: dict[str, Json] = defaultdict(dict)
    for path, method, handler, operation in operations:
        paths[path][method] = _described(path, method, handler, operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "kernelsvc", "version": version("kernelsvc"), "description": _ABOUT},
        "paths": dict(paths),
        "components": {
            "schemas": schemas,
            "securitySchemes": {_KEY: {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas(operations: Iterable[Operation]) -> tuple[Refs, Json]:
    """A reference for each model that goes in or out, and what they refer to."""
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, _OUT): None}
    for operation in operations:
        if isinstance(operation.body, type):
            models[operation.body, _IN] = None
        for content in operation.answers.values():
            if isinstance(content, type):
                models[content, _OUT] = None
    refs, definitions = models_json_schema(list(models), ref_template=_REF)
    return {model: refs[model, mode] for model, mode in models}, definitions["$defs"]


def _described(
    path: str, method: str, handler: type[ApiHandler], operation: Operation, refs: Refs
) -> Json:
    about = (inspect.getdoc(getattr(handler, method)) or "").replace("\n", " ")
    example = operation.shown or Example()
    said: Json = {
        "operationId": method + handler.__name__.removesuffix("Handler"),
        "summary": re.split(r"(?<=[.:;]) ", about, maxsplit=1)[0].rstrip(".:;"),
        "description": about,
        "parameters": [
            *(_parameter(_PATH_PARAMETERS[name], "path") for name in _NAMES.findall(path)),
            *(
                _parameter(parameter, "query", example.query.get(parameter.name))
                for parameter in operation.query
            ),
            *(_parameter(parameter, "header") for parameter in operation.request_headers),
        ],
        "responses": {
            **_answers(operation, refs, example),
            **_errors(operation, refs[Problem], with_key=handler.needs_key),
        },
        "security": [{_KEY: []}, {}] if handler.needs_key else [],
    }
    if operation.body is not None:
        is_needed = not (isinstance(operation.body, Bytes) or operation.body_may_be_missing)
        content = _content(operation.body, refs, _examples(example.body))
        said["requestBody"] = {"required": is_needed, "content": content}
    return said


def _parameter(parameter: Parameter, place: str, example: str | None = None) -> Json:
    said: Json = {
        "name": parameter.name.rstrip("."),
        "in": place,
        "required": place == "path",
        "description": parameter.about,
        "schema": dict(parameter.schema),
    }
    if example is not None or parameter.example is not None:
        said["example"] = parameter.example if example is None else example
    if parameter.name.endswith("."):
        # Each property of the object is a parameter of its own.
        said["schema"] = {
            "type": "object",
            "propertyNames": {"pattern": "^" + re.escape(parameter.name)},
            "additionalProperties": dict(parameter.schema),
        }
        said |= {"style": "form", "explode": True}
    return said


def _content(content: Content, refs: Refs, examples: Json | None = None) -> Json:
    if content is None:
        return {}
    told: Json = {"examples": examples} if examples else {}
    if isinstance(content, Bytes):
        return {content.kind: told}
    return {_JSON: {"schema": refs[content], **told}}


def _examples(example: Any) -> Json | None:
    """The one example of a body, in the form that has a name for each."""
    match example:
        case None:
            return None
        case Attached(name=name):
            return {EXAMPLE: {"externalValue": name}}
        case BaseModel():
            return {EXAMPLE: {"value": example.model_dump(mode="json")}}
        case _:
            return {EXAMPLE: {"value": example}}


def _answers(operation: Operation, refs: Refs, example: Example) -> Json:
    headers = {
        name: {"description": about, "schema": {"type": "string"}}
        for name, about in operation.headers.items()
    }
    answers: Json = {
        str(status.value): {
            "description": status.phrase,
            "headers": headers,
            "content": _content(content, refs),
        }
        for status, content in operation.answers.items()
    }
    usual = next(iter(operation.answers))
    if example.answer is not None:
        content = _content(operation.answers[usual], refs, _examples(example.answer))
        answers[str(usual.value)]["content"] = content
    if operation.passes_on:
        answers["default"] = {"description": "whatever it answers", "content": {"*/*": {}}}
    if operation.may_be_unchanged:
        answers["304"] = {"description": "the client has it already", "headers": headers}
    return answers


def _errors(operation: Operation, problem: Json, *, with_key: bool) -> Json:
    """Everything that may be wrong, by status, with the codes that tell it apart."""
    codes: dict[HTTPStatus, dict[str, str]] = defaultdict(dict)
    always = (*_ALWAYS, *(_WITH_KEY if with_key else ()))
    for error in (*always, *operation.errors):
        codes[STATUS[error]][error.code] = _first_sentence(error)
    wrong = [HTTPStatus.REQUEST_ENTITY_TOO_LARGE, *operation.refusals]
    if isinstance(operation.body, type):
        wrong.append(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    for status in wrong:
        code, about = HTTP_CODES[status]
        codes[status][code] = about
    return {
        str(status.value): {
            "description": "; ".join(f"`{code}`: {about}" for code, about in found.items()),
            "headers": {
                name: {"description": about, "schema": {"type": "string"}}
                for name, about in _error_headers(status)
            },
            "content": {_JSON: {"schema": problem}},
        }
        for status, found in sorted(codes.items())
    }


def _error_headers(status: HTTPStatus) -> Iterator[tuple[str, str]]:
    if status in RETRY_SECONDS:
        yield "Retry-After", "seconds after which it may go well"
    if status is HTTPStatus.UNAUTHORIZED:
        yield "WWW-Authenticate", "always `Bearer`"


def _first_sentence(error: type[KernelsvcError]) -> str:
    return (error.__doc__ or "").partition(".")[0].replace("\n", " ")

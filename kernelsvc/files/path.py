"""Paths of files in a workspace, as callers give them: decided without looking at any file."""

from kernelsvc.errors import FieldProblem, InvalidRequest
from kernelsvc.files.own import what_it_is

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255


def relative_path(text: str, field: str = "path") -> bytes:
    """The path as the file system takes it; raises InvalidRequest, which names `field`."""
    try:
        path = text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest([FieldProblem(field, "is not UTF-8")]) from None
    if (problem := _problem(path)) is not None:
        raise InvalidRequest([FieldProblem(field, problem)])
    return path


def changeable_path(text: str, field: str = "path") -> bytes:
    """The same for a file that is to be put or deleted, which the service's own are not."""
    path = relative_path(text, field)
    if (own := what_it_is(path)) is not None:
        name = path.split(b"/")[0].decode()
        raise InvalidRequest([FieldProblem(field, f"{name} {own}")])
    return path


def _problem(path: bytes) -> str | None:
    if not path:
        return "is empty"
    if b"\0" in path:
        return "holds a NUL character"
    if path.startswith(b"/"):
        return "must be relative to the session's directory, without a / in front"
    if len(path) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    for name in path.split(b"/"):
        if not name:
            return "has an empty component: a / too many"
        if name in (b".", b".."):
            return f"must not have the component {name.decode()!r}"
        if len(name) > MAX_NAME_BYTES:
            return f"has a component longer than {MAX_NAME_BYTES} bytes"
    return None

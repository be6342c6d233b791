"""What a request's headers ask of a file: a range of it, a state of it."""

import re
from typing import NamedTuple

from kernelsvc.errors import FieldProblem, InvalidRequest
from kernelsvc.files.contents import Precondition

_ETAG = re.compile(r'(?:W/)?("[^"]*")')
_ETAGS = re.compile(r'(?:W/)?"[^"]*"(?:[ \t]*,[ \t]*(?:W/)?"[^"]*")*')
_RANGE = re.compile(r"bytes=\s*([0-9]*)-([0-9]*)\s*")
_MOST_DIGITS = 18


class Span(NamedTuple):
    """The bytes from `start` up to, but not including, `end`."""

    start: int
    end: int


class Unsatisfiable(Exception):
    """The range begins behind the end of the file."""


def span_of(header: str | None, size: int) -> Span | None:
    """The single range that a Range header asks for; None for the whole file.

    What is no range, or several of them, may be ignored (RFC 9110, 14.2), and is.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or any(len(digits) > _MOST_DIGITS for digits in match.groups()):
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0 or size == 0:
            raise Unsatisfiable
        return Span(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise Unsatisfiable
    return Span(int(first), min(size, int(last) + 1) if last else size)


def precondition(if_match: str | None, if_none_match: str | None) -> Precondition:
    """What If-Match and If-None-Match ask for; raises InvalidRequest, which names the header."""
    return Precondition(
        _etags("If-Match", if_match, weak=False),
        _etags("If-None-Match", if_none_match, weak=True),
    )


def _etags(name: str, header: str | None, *, weak: bool) -> frozenset[str] | None:
    """The ETags; weak ones, which we never give, are as good as strong ones only where `weak`."""
    if header is None:
        return None
    header = header.strip()
    if header == "*":
        return frozenset("*")
    if not _ETAGS.fullmatch(header):
        raise InvalidRequest([FieldProblem(name, 'must be ETags in quotes, or "*"')])
    return frozenset(
        match[1] for match in _ETAG.finditer(header) if weak or not match[0].startswith("W/")
    )

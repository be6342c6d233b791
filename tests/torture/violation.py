"""What is raised where the service has broken a promise."""

from typing import Final

_LONGEST: Final = 2000


class Violation(AssertionError):
    """The service has broken a promise."""


def hold(claim: bool, words: str, *about: object) -> None:
    """Raise Violation unless it holds."""
    if not claim:
        raise Violation(" ".join([words, *(repr(each)[:_LONGEST] for each in about)]))

"""What is raised where the service has broken a promise."""


class Violation(AssertionError):
    """The service has broken a promise."""


def hold(claim: bool, words: str, *about: object) -> None:
    """Raise Violation unless it holds."""
    if not claim:
        raise Violation(" ".join([words, *map(repr, about)]))

"""What was sent and what was answered, in order: the report of what has gone wrong."""

import json
import time
from collections import Counter
from typing import Final

import httpx

_LONGEST: Final = 600


class Journal:
    """`operations` counts what was done, `words` what was said of memory, `checks` what held."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.operations: Counter[str] = Counter()
        self.words: Counter[str] = Counter()
        self.checks: Counter[str] = Counter()
        self._began = time.monotonic()

    def note(self, *words: object) -> None:
        """Something has happened."""
        at = time.monotonic() - self._began
        self.lines.append(_shortened(f"{at:8.2f} s  {' '.join(map(str, words))}"))

    def sent(self, operation: str, method: str, path: str, summary: str) -> None:
        """A request has been sent."""
        self.note(operation, "->", method, path, summary)

    def answered(self, operation: str, path: str, answer: httpx.Response | None) -> None:
        """It has been answered, or will not be (None)."""
        said = "no answer" if answer is None else f"{answer.status_code} {_told(answer)}"
        self.note(operation, "<-", path, said)

    def report(self) -> str:
        """How often what was done, and what was checked."""
        parts = {"operations": self.operations, "memory": self.words, "checks": self.checks}
        lines = []
        for title, counts in parts.items():
            lines.append(f"{title} ({counts.total()})")
            lines += [f"  {counts[name]:6}  {name}" for name in sorted(counts)]
        return "\n".join(lines)


def _told(answer: httpx.Response) -> str:
    """Of an answer, what tells how the session is."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text
    if not isinstance(body, dict):
        return answer.text
    names = ("run_id", "status", "exit_code", "memory", "memory_detail", "stdout", "stderr",
             "state", "data", "error", "code")  # fmt: skip
    return json.dumps({name: body[name] for name in names if body.get(name) not in (None, "", {})})


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."

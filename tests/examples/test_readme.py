"""The README does what it says: its tour is run, its table of endpoints is the routes.

In the tour, a block of `sh` is a piece of one bash session; the block right behind it, if any, is
what it prints, where `…` stands for anything within a line and a line of `…` for any lines. What
the tour shows in Python is run by the tests of what it is about.
"""

import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from tornado.web import RequestHandler

from kernelsvc.api.base import ApiContext
from kernelsvc.api.routes import make_application
from tests.examples.shell import bash

README = Path(__file__).parents[2] / "README.md"
TOUR, AFTER_TOUR = "## Five minutes\n", "## Endpoints\n"

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$(\n?)", re.MULTILINE | re.DOTALL)
_END = "\x1e"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def steps() -> list[tuple[str, str]]:
    """The tour's commands, each with what is shown behind it ("" for nothing)."""
    tour = README.read_text(encoding="utf-8").partition(TOUR)[2].partition(AFTER_TOUR)[0]
    blocks = [block for block in _FENCED.finditer(tour) if block[1] != "python"]
    shown = {
        before.start(): after[2]
        for before, after in pairwise(blocks)
        if after[1] != "sh" and before.end() == after.start()
    }
    found = [(block[2], shown.get(block.start(), "")) for block in blocks if block[1] == "sh"]
    assert len(found) + len(shown) == len(blocks), "an output stands behind no command"
    return found


def as_pattern(shown: str) -> str:
    lines = (
        r"(.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in shown.splitlines()
    )
    return "".join(lines)


def test_the_tour_prints_what_it_shows(service, tmp_path):
    tour = steps()
    assert len(tour) >= 12
    tmp_path.joinpath(".venv").mkdir()
    tmp_path.joinpath(".venv/bin").symlink_to(Path(sys.executable).parent)
    script = "".join(f"{commands}\nprintf '{_END}'\n" for commands, _ in tour)
    # The tour's service is at the default address; the test's is where it found a free port.
    script = script.replace("http://127.0.0.1:8787", service.url)
    script = script.replace("kernelsvc run ", f"kernelsvc run --url {service.url} ")

    done = bash(script, tmp_path, KERNELSVC_DATA_DIR=str(service.directory / "data"))

    assert done.stderr == ""
    *printed, rest = done.stdout.split(_END)
    assert (len(printed), rest) == (len(tour), "")
    for (commands, shown), output in zip(tour, printed, strict=True):
        assert re.fullmatch(as_pattern(shown), output), f"{commands}\nprinted:\n{output}"


@pytest.mark.parametrize(
    ("shown", "printed", "matches"),
    [
        ("1 s\n", "1 s\n", True),
        ("1 s\n", "2 s\n", False),
        ("… s\n", "1.5 s\n", True),
        ("… s\n", "1.5 s\n2 s\n", False),
        ("a\n…\nb\n", "a\nb\n", True),
        ("a\n…\nb\n", "a\n1\n2\nb\n", True),
        ("a\n…\nb\n", "a\n1\n2\n", False),
        ("a.\n", "ab\n", False),
    ],
)
def test_an_ellipsis_stands_for_what_differs_and_nothing_else_does(shown, printed, matches):
    assert bool(re.fullmatch(as_pattern(shown), printed)) is matches


def test_the_endpoints_are_those_there_are():
    application = make_application(cast(ApiContext, None))
    rules: list[Any] = application.wildcard_router.rules
    routes = {
        (method, as_path(rule.matcher.regex.pattern.removesuffix("$")))
        for rule in rules
        for method in METHODS
        if getattr(rule.target, method.lower()) is not getattr(RequestHandler, method.lower())
    }
    rows = re.findall(r"^\| `([A-Z]+) (/\S+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert {
        (method, re.sub(r"\{\w+\}", "{}", path))
        for named, path in rows
        for method in (METHODS if named == "ANY" else (named,))
    } == routes


def as_path(pattern: str) -> str:
    """A route's pattern as the table writes it."""
    return re.sub(r"\(\[\^/\]\+\)|\(\.\*\)", "{}", pattern.replace("(/.*)?", "/{}"))

"""From what is asked for to what is done: a setup's steps, and the commands that do them.

Theory of operation. What is downloaded is kept in a cache that all sessions share, and no session
may change what another one gets from it. So it is only shown to sandboxes *apart* from any
session's, in which nothing runs but pip and Deno, and nothing of what they have downloaded: wheels
and npm packages are unpacked there, in a directory that is then moved into the session's workspace
(not linked: nothing in it is the cache's). What must run to be installed, a package that has to be
built or a command, does in a sandbox of the session, which the cache is not shown to.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kernelsvc.errors import FieldProblem
from kernelsvc.kernels.launch import PACKAGES, find_program
from kernelsvc.models.setup import Setup, npm_dependencies

RESULTS: Final = (PACKAGES, "node_modules", "package.json")
"""What may be moved into a workspace."""

_PIP = (sys.executable, "-I", "-u", str(Path(__file__).with_name("run_pip.py")))
_PIP_INSTALL = (
    *("install", "--prefix", PACKAGES, "--ignore-installed", "--no-input", "--progress-bar", "off"),
    *("--no-warn-script-location", "--disable-pip-version-check", "--timeout", "15"),
    *("--retries", "2"),
)
_NPM_INSTALL = 'printf %s "$PACKAGE_JSON" >package.json && exec deno install --no-lock'


@dataclass(frozen=True)
class Attempt:
    """A command; `is_apart` says in which of the two kinds of sandboxes it runs.

    One in a sandbox apart has an environment of ours, one in the session's has the setup's too.
    """

    argv: tuple[str, ...]
    is_apart: bool
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Something to do, by the first attempt that succeeds.

    `name` is the field that asks for it, `command` what people would type.
    """

    name: str
    command: str
    attempts: tuple[Attempt, ...]


def plan(setup: Setup) -> list[Step]:
    """The steps, in their order."""
    steps = []
    if setup.pip:
        command = shlex.join(["pip", "install", *setup.pip])
        steps.append(Step("pip", command, _pip(setup.pip)))
    if setup.npm:
        command = shlex.join(["npm", "install", *setup.npm])
        steps.append(Step("npm", command, (_npm(setup.npm),)))
    if setup.go:
        steps.append(Step("go", shlex.join(["go", "get", *setup.go]), (_go(setup.go),)))
    for number, command in enumerate(setup.commands):
        attempt = Attempt(("/bin/sh", "-c", command), is_apart=False)
        steps.append(Step(f"commands.{number}", command, (attempt,)))
    return steps


def _pip(requirements: tuple[str, ...]) -> tuple[Attempt, ...]:
    """Without running anything of the packages; where that is not enough, in the session."""
    without = ("--no-programs", *_PIP_INSTALL, "--only-binary", ":all:", *requirements)
    building = (*_PIP_INSTALL, "--no-cache-dir", "--prefer-binary", *requirements)
    return (
        Attempt((*_PIP, *without), is_apart=True),
        Attempt((*_PIP, *building), is_apart=False),
    )


def _npm(packages: tuple[str, ...]) -> Attempt:
    """By Deno, which runs nothing of the packages unless it is told to."""
    package_json = {"private": True, "dependencies": npm_dependencies(packages)}
    environment = {
        "PACKAGE_JSON": json.dumps(package_json, indent=2) + "\n",
        "NO_COLOR": "1",
        "DENO_NO_UPDATE_CHECK": "1",
        "DENO_NO_PROMPT": "1",
    }
    return Attempt(("/bin/sh", "-c", _NPM_INSTALL), is_apart=True, environment=environment)


def _go(modules: tuple[str, ...]) -> Attempt:
    script = 'test -e go.mod || go mod init session; exec go get "$@"'
    # No other toolchain than the one that is there; modules that can be deleted.
    environment = {"GOTOOLCHAIN": "local", "GOFLAGS": "-modcacherw"}
    argv = ("/bin/sh", "-c", script, "go", *modules)
    return Attempt(argv, is_apart=False, environment=environment)


def impossible(setup: Setup, *, internet: bool) -> list[FieldProblem]:
    """What of a setup this service cannot do, with or without `internet`."""
    problems = []
    for name in ("pip", "npm", "go"):
        if not getattr(setup, name):
            continue
        if not internet:
            why = "this service lets no setup use the internet (setup_internet)"
            problems.append(FieldProblem(f"setup.{name}", why))
        elif (program := _NEEDED.get(name)) is not None and find_program(program) is None:
            why = f"needs the program {program}, which is not installed with this service"
            problems.append(FieldProblem(f"setup.{name}", why))
    return problems


_NEEDED = {"npm": "deno", "go": "go"}

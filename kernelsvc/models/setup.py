"""What a session's setup installs and runs: asked for in a request, told in its result.

Whatever form a request has, what is kept are lists of checked texts: none can be taken for an
option, a path or a file by the program that it is given to.
"""

import json
import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    computed_field,
)

from kernelsvc.models.fields import Environment, fits_into_a_program

MOST_ENTRIES: Final = 200
MOST_COMMANDS: Final = 64
_LONGEST_ENTRY: Final = 1000
_LONGEST_COMMAND: Final = 64 * 1024
_MOST_ENVIRONMENT: Final = 64 * 1024

_COMMENT = re.compile(r"(?:^|\s)#.*$")
_NPM_NAME = r"(?:@[A-Za-z0-9_~][\w.~-]*/)?[A-Za-z0-9_~][\w.~-]*"
_NPM_PACKAGE = re.compile(rf"({_NPM_NAME})(?:@([\w.^~<>=|*+ -]*))?", re.ASCII)
_GO_MODULE = re.compile(r"\w[\w.~-]*(?:/[\w.~-]+)*(?:@[\w.+-]+)?", re.ASCII)
_GO_REQUIRE = re.compile(r"(?:require\s+)?(\S+)\s+(v\S+)")

SetupStatus = Literal["pending", "running", "completed", "failed"]
StepStatus = Literal["pending", "running", "completed", "failed", "skipped"]


def _texts(value: Any, most: int = MOST_ENTRIES, longest: int = _LONGEST_ENTRY) -> tuple[str, ...]:
    """A list of texts as it stands, within bounds; raises ValueError."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of texts")
    if len(value) > most:
        raise ValueError(f"has more than {most} entries")
    for item in value:
        if len(item) > longest or not fits_into_a_program(item):
            raise ValueError(
                f"{item[:60]!r} is longer than {longest} characters, or holds one that no program "
                "can be given"
            )
    return tuple(value)


def _list_or_text(value: Any, key: str) -> list[str] | str:
    """ERA's two forms: a list of texts, or an object with one text."""
    if isinstance(value, dict):
        if value.keys() != {key} or not isinstance(value[key], str):
            raise ValueError(f'must be a list of texts, or {{"{key}": "..."}}')
        return str(value[key])
    return list(_texts(value))


def _pip(value: Any) -> tuple[str, ...]:
    given = _list_or_text(value, "requirements")
    if isinstance(given, str):
        return _texts([each for line in _lines(given) for each in _requirements(line)])
    return tuple(_requirement(item) for item in given)


def _lines(requirements: str) -> list[str]:
    """The lines of a requirements file without comments, those that go on in the next joined."""
    lines = requirements.replace("\\\r\n", " ").replace("\\\n", " ").splitlines()
    return [text for line in lines if (text := _COMMENT.sub("", line).strip())]


def _requirements(line: str) -> list[str]:
    """One requirement, spaces within it included, or several with spaces between them."""
    try:
        return [_requirement(line)]
    except ValueError:
        parts = line.split()
        if len(parts) == 1 or line.startswith("-"):
            raise
        return [_requirement(part) for part in parts]


def _requirement(text: str) -> str:
    """A requirement in its usual form; raises ValueError."""
    shown = text if len(text) <= 100 else f"{text[:100]}..."
    if text.lstrip().startswith("-"):
        raise ValueError(f"{shown!r} is an option; only requirements such as 'pandas>=2' are taken")
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{shown!r} is no requirement such as 'pandas>=2': {why}") from None
    if requirement.url is not None and not _is_web(requirement.url):
        raise ValueError(f"{shown!r} is not of http or https")
    return str(requirement)


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _npm(value: Any) -> tuple[str, ...]:
    given = _list_or_text(value, "packageJson")
    if isinstance(given, str):
        given = _dependencies(given)
    for item in _texts(given):
        if not _NPM_PACKAGE.fullmatch(item):
            raise ValueError(f"{item[:100]!r} is no package such as 'ms' or '@types/ms@2'")
    return tuple(given)


def _dependencies(package_json: str) -> list[str]:
    """What a package.json depends on, as packages with versions."""
    try:
        package = json.loads(package_json)
        wanted = {**package.get("devDependencies", {}), **package.get("dependencies", {})}
        return [f"{name}@{version}" for name, version in wanted.items()]
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError("packageJson is no package.json") from None


def npm_dependencies(packages: tuple[str, ...]) -> dict[str, str]:
    """By its name, the version or range of each package; of one without, the latest."""
    matches = (_NPM_PACKAGE.fullmatch(package) for package in packages)
    return {match[1]: (match[2] or "").strip() or "latest" for match in matches if match}


def _go(value: Any) -> tuple[str, ...]:
    given = _list_or_text(value, "goMod")
    if isinstance(given, str):
        lines = (line.partition("//")[0].strip() for line in given.splitlines())
        matches = (_GO_REQUIRE.fullmatch(line) for line in lines)
        given = [f"{match[1]}@{match[2]}" for match in matches if match]
    for item in _texts(given):
        if not _GO_MODULE.fullmatch(item):
            raise ValueError(f"{item[:100]!r} is no module such as 'example.com/module@v1.2.3'")
    return tuple(given)


def _commands(value: Any) -> tuple[str, ...]:
    return _texts(value, MOST_COMMANDS, _LONGEST_COMMAND)


def _envs(value: dict[str, str]) -> dict[str, str]:
    if sum(len(name) + len(text) for name, text in value.items()) > _MOST_ENVIRONMENT:
        raise ValueError(f"is larger than {_MOST_ENVIRONMENT} characters")
    return value


def _schema(key: str) -> WithJsonSchema:
    a_list = {"type": "array", "items": {"type": "string"}, "maxItems": MOST_ENTRIES}
    an_object = {
        "type": "object",
        "properties": {key: {"type": "string"}},
        "required": [key],
        "additionalProperties": False,
    }
    return WithJsonSchema({"anyOf": [a_list, an_object]})


Texts = tuple[str, ...]


class Setup(BaseModel):
    """What is done once, before a session's first run.

    `pip` are requirements, `npm` packages and `go` modules, each with versions; `commands` are a
    shell's, run one after the other. `envs` is the environment of the commands, and of packages
    that are built.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pip: Annotated[Texts, BeforeValidator(_pip), _schema("requirements")] = ()
    npm: Annotated[Texts, BeforeValidator(_npm), _schema("packageJson")] = ()
    go: Annotated[Texts, BeforeValidator(_go), _schema("goMod")] = ()
    commands: Annotated[
        Texts,
        BeforeValidator(_commands),
        WithJsonSchema({"type": "array", "items": {"type": "string"}, "maxItems": MOST_COMMANDS}),
    ] = ()
    envs: Annotated[Environment, AfterValidator(_envs)] = Field(default_factory=dict)


class SetupStep(BaseModel):
    """One of the things that a setup does: `command`, by the name of what asked for it.

    `log` is what it printed; of much, the beginning and the end.
    """

    name: str
    command: str
    status: StepStatus = "pending"
    exit_code: int | None = None
    duration: str | None = None
    log: str = ""


class SetupResult(BaseModel):
    """How a setup went, or how far it has come; `error` says why it failed.

    `pip_packages`, `npm_packages` and `go_modules` were asked for, of the commands those are told
    that have been begun.
    """

    success: bool
    duration_ms: int
    pip_packages: list[str]
    npm_packages: list[str]
    go_modules: list[str]
    commands_run: list[str]
    steps: list[SetupStep]
    error: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def log(self) -> str:
        """What all steps printed."""
        return "".join(f"$ {s.command}\n{s.log}" for s in self.steps if s.exit_code or s.log)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def stdout(self) -> str:
        """Where a step failed, what those before it printed."""
        return "".join(s.log for s in self.steps if self.error and s.status != "failed")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def stderr(self) -> str:
        """Where a step failed, what it printed."""
        return "".join(s.log for s in self.steps if s.status == "failed")

"""The languages that there are: what each is called, what runs it and what it can do, as data."""

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from kernelsvc.errors import FieldProblem, InvalidRequest
from kernelsvc.kernels.specs import PYTHON, KernelSpecs
from kernelsvc.models.language import LanguageInfo, Supports

PROGRAMS: Final = (
    str(Path(sys.executable).parent),
    *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
    "/usr/local/go/bin",
)
"""Where kernels find programs."""
ALL: Final = "*"
_VERSION_SECONDS: Final = 5.0
_VERSION: Final = re.compile(r"\d+\.\d+[\w.]*")


@dataclass(frozen=True)
class Language:
    """A language by its name and the other names it answers to.

    `version_command` begins with the program that it needs; none: it is there with the service.
    """

    name: str
    aliases: tuple[str, ...]
    display_name: str
    kernelspec: str
    supports: Supports
    version_command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    install: str | None = None

    @property
    def is_available(self) -> bool:
        """Whether what it needs is installed."""
        return not self.version_command or _program(self.version_command[0]) is not None

    def info(self) -> LanguageInfo:
        """What the API shows of it; blocks for a moment."""
        available = self.is_available
        return LanguageInfo(
            name=self.name,
            aliases=list(self.aliases),
            display_name=self.display_name,
            available=available,
            version=_version(self.version_command) if available else None,
            kernel=self.kernelspec,
            supports=self.supports,
            notes=list(self.notes),
            install=None if available else self.install,
        )


def _on_deno(name: str, aliases: tuple[str, ...], display_name: str) -> Language:
    return Language(
        name,
        aliases,
        display_name,
        "kernelsvc-deno",
        Supports(interrupt="running", displays=True),
        ("deno", "--version"),
        (
            "runs on Deno's kernel, which knows TypeScript, JavaScript and Node's modules",
            "code that awaits cannot be interrupted: after a timeout its memory is lost",
            "what child processes print is output only where the code reads and prints it",
            "prompt() reads the run's stdin, line by line",
        ),
        "pip install 'kernelsvc[languages]'",
    )


_LANGUAGES: Final = (
    Language(
        "python",
        ("py", "python3"),
        "Python",
        PYTHON,
        Supports(displays=True, sleep=True, snapshots=True),
    ),
    _on_deno("javascript", (), "JavaScript"),
    _on_deno("node", ("nodejs", "js"), "JavaScript with Node's modules"),
    _on_deno("typescript", ("ts",), "TypeScript"),
    _on_deno("deno", (), "Deno"),
    Language(
        "bash",
        ("sh", "shell"),
        "Bash",
        "kernelsvc-bash",
        Supports(),
        ("bash", "--version"),
        ("the exit code of a run is that of its last command, as for a script",),
        "apt-get install bash",
    ),
    Language(
        "go",
        ("golang",),
        "Go",
        "kernelsvc-go",
        Supports(memory=False),
        ("go", "version"),
        ("each run is a complete program: only files and data stay",),
        "apt-get install golang-go",
    ),
)


class Languages:
    """Those that the service knows, and of `kernelspecs` those that are installed (`*`: all)."""

    def __init__(self, kernelspecs: tuple[str, ...] = ()) -> None:
        own = {name for each in _LANGUAGES for name in (each.name, *each.aliases)}
        found = KernelSpecs().installed() if kernelspecs else {}
        wanted = found if ALL in kernelspecs else kernelspecs
        self.missing = [name for name in kernelspecs if name not in found and name != ALL]
        others = (_installed(name, found[name]) for name in wanted if name in found.keys() - own)
        self._all = (*_LANGUAGES, *others)
        self._by_name = {
            name.lower(): language
            for language in self._all
            for name in (language.name, *language.aliases)
        }

    def find(self, name: str) -> Language | None:
        """The language of that name or alias, in whatever case; None where there is none."""
        return self._by_name.get(name.lower())

    def asked(self, name: str, env: Mapping[str, str]) -> Language:
        """The language for a request that names it; raises InvalidRequest.

        That is where there is none of the name, or it is not installed, or takes no variables.
        """
        language = self.find(name)
        known = ", ".join(self.names())
        if language is None:
            problem = FieldProblem(
                "language", f"{name!r} is not a language here; there are: {known}"
            )
        elif not language.is_available:
            how = f"{language.name} is not installed ({language.install}); there are: {known}"
            problem = FieldProblem("language", how)
        else:
            self.check_env(language.name, env)
            return language
        raise InvalidRequest([problem])

    def kernelspec(self, name: str) -> str:
        """What runs a session's language; one that is not known any more has no kernel of it."""
        language = self.find(name)
        return language.kernelspec if language else name

    def remembers(self, name: str) -> bool:
        """Whether sessions of a language keep their memory while they sleep."""
        language = self.find(name)
        return language is not None and language.supports.sleep

    def check_env(self, name: str, env: Mapping[str, str]) -> None:
        """Raise InvalidRequest where runs of a session's language cannot be given variables."""
        language = self.find(name)
        if env and language is not None and not language.supports.env:
            raise InvalidRequest([FieldProblem("env", f"{language.name} takes no variables")])

    def have_snapshots(self, name: str) -> bool:
        """Whether the memory of a session of that language can be copied while it lives."""
        language = self.find(name)
        return language is not None and language.supports.snapshots

    def check_snapshots(self, name: str, wanted: bool | None) -> None:
        """Raise InvalidRequest where a session's language has none of the snapshots wanted."""
        if wanted and not self.have_snapshots(name):
            raise InvalidRequest([FieldProblem("snapshots", f"there are none of {name}'s memory")])

    def names(self) -> list[str]:
        """The names of those that sessions can be made of."""
        return [language.name for language in self._all if language.is_available]

    def infos(self) -> list[LanguageInfo]:
        """What the API shows of each; blocks for a moment."""
        return [language.info() for language in self._all]


def _installed(name: str, display_name: str) -> Language:
    """A kernelspec that is no language of ours, by its own name."""
    return Language(
        name,
        (),
        display_name,
        name,
        Supports(env=False, exit_codes=False, interrupt="kernel", displays=True),
        notes=("an installed Jupyter kernel: it knows no ERA_ variables, nor env",),
    )


def _program(name: str) -> str | None:
    return shutil.which(name, path=":".join(PROGRAMS))


@cache
def _version(command: tuple[str, ...]) -> str | None:
    """The first version number in what the command prints; none: that of this interpreter."""
    if not command:
        return platform.python_version()
    program = _program(command[0])
    try:
        said = subprocess.run(
            [program or command[0], *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(said)
    return found[0] if found else None

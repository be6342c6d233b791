"""The languages there are, and the kernelspec that runs each."""

from dataclasses import dataclass
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from kernelsvc.errors import FieldProblem, InvalidRequest

_KERNELSPECS = Path(__file__).with_name("kernelspecs")


@dataclass(frozen=True)
class Language:
    """A language by its name, the other names it answers to, and its kernelspec."""

    name: str
    aliases: tuple[str, ...]
    kernelspec: str


_LANGUAGES = (Language("python", ("py", "python3"), "kernelsvc-python"),)
_BY_NAME = {
    name: language for language in _LANGUAGES for name in (language.name, *language.aliases)
}


def find_language(name: str) -> Language | None:
    """The language of that name or alias, in whatever case; None where there is none."""
    return _BY_NAME.get(name.lower())


def asked_language(name: str) -> Language:
    """The language of that name or alias; raises InvalidRequest, which names those there are."""
    language = find_language(name)
    if language is None:
        known = ", ".join(language_names())
        problem = f"{name!r} is not a language here; there are: {known}"
        raise InvalidRequest([FieldProblem("language", problem)])
    return language


def kernelspec_of(name: str) -> str:
    """The kernelspec for a language's own name."""
    return _BY_NAME[name].kernelspec


def language_names() -> list[str]:
    """The names to offer to somebody who asked for an unknown one."""
    return [language.name for language in _LANGUAGES]


class KernelSpecs(KernelSpecManager):
    """Finds the kernelspecs that come with kernelsvc, and no others."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernelspec of that name."""
        return KernelSpec.from_resource_dir(str(_KERNELSPECS / kernel_name))

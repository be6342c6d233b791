"""Languages, as the API shows them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Supports(BaseModel):
    """What sessions of a language can do.

    `memory`: what one run sets, the next one finds. `env` and `stdin`: a run may be given them.
    `exit_codes`: code can end a run with one of its own. `interrupt`: `always`; `running`, where
    code that waits for a promise cannot be interrupted; `kernel`, as the installed kernel has it.
    `displays`: there is more than text, such as figures and tables. `sleep`: memory is kept while a
    session sleeps. `snapshots`: it can be restored where a run costs the kernel.
    """

    model_config = ConfigDict(frozen=True)

    memory: bool = True
    env: bool = True
    stdin: bool = True
    exit_codes: bool = True
    interrupt: Literal["always", "running", "kernel"] = "always"
    displays: bool = False
    sleep: bool = False
    snapshots: bool = False


class LanguageInfo(BaseModel):
    """A language: whether sessions of it can be made here, and what they can do.

    One that is not `available` has in `install` what is missing.
    """

    name: str
    aliases: list[str]
    display_name: str
    available: bool
    version: str | None
    kernel: str
    supports: Supports
    notes: list[str]
    install: str | None


class LanguageList(BaseModel):
    """The languages that the service knows."""

    languages: list[LanguageInfo]
    count: int

"""The service's own files in a workspace: not listed, packed or counted as the session's files."""

from typing import Final

from kernelsvc.files.session_data import DATA_FILE

MEMORY_FILE: Final = ".session_memory"
"""What the kernel holds, while the session sleeps; only the kernel reads what is in it."""
MEMORY_FILES: Final = (MEMORY_FILE.encode(), MEMORY_FILE.encode() + b".new")

_WHAT = {
    DATA_FILE.encode(): "is the session's data; change `data` of the session instead",
    **dict.fromkeys(MEMORY_FILES, "is where the session's memory is kept while it sleeps"),
}
OWN_FILES: Final = frozenset(_WHAT)
NOT_COPIED: Final = OWN_FILES - {MEMORY_FILE.encode()}
"""Of these, those that a copy of a workspace does without; one may do without the memory, too."""


def what_it_is(path: bytes) -> str | None:
    """What is at this path to the service, or what it is below; None for the session's own."""
    return _WHAT.get(path.split(b"/")[0])

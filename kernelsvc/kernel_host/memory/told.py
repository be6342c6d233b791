"""What the service asks for, and what it is told: JSON in the metadata of a request and its `idle`.

Asked is `{"do": "save" or "restore", "path", "token", "seconds"}`, to save also `"most_bytes"`, to
restore also `"snapshot"`: up to how many bytes are copied behind it, as of a run called `token`.
Told is `{"lost": why}` where nothing was saved or restored; else `{"restored": [names],
"not_restored": [[name, reason]]}`, after a save without names.
"""

from typing import Any

from kernelsvc.kernel_host.memory.copying import NotSaved, save
from kernelsvc.kernel_host.memory.file import Unusable
from kernelsvc.kernel_host.memory.restore import restore
from kernelsvc.kernel_host.memory.save import Order
from kernelsvc.kernel_host.memory.state import Baseline

MOST_NAMES = 1000
_MOST_CHARACTERS = 200


def carry_out(asked: dict[str, Any], shell: Any, baseline: Baseline) -> dict[str, Any]:
    """Do what is asked; what to tell of it."""
    try:
        if asked["do"] == "save":
            save(shell, baseline, Order(asked["path"], asked["token"], asked["most_bytes"],
                                        asked["seconds"]))  # fmt: skip
            return {"restored": [], "not_restored": []}
        done = restore(shell, asked["path"], asked["token"], asked["seconds"])
    except (NotSaved, Unusable) as error:
        return {"lost": _short(str(error))}
    except OSError as error:
        return {"lost": _short(f"its file cannot be used: {error.strerror}")}
    left_out = [[_short(name), _short(reason)] for name, reason in done.left_out[:MOST_NAMES]]
    if len(done.left_out) > MOST_NAMES:
        left_out.append(["...", f"and {len(done.left_out) - MOST_NAMES} more"])
    return {
        "restored": [_short(name) for name in done.names[:MOST_NAMES]],
        "not_restored": left_out,
    }


def _short(text: str) -> str:
    said = text.encode(errors="replace").decode()
    return said if len(said) <= _MOST_CHARACTERS else said[:_MOST_CHARACTERS] + "..."

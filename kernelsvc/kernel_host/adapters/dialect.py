"""What can be asked of some Jupyter kernels beside code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernelsvc.kernel_host.adapters.running import Asked, Ended


class Dialect:
    """What a kind of kernel can be asked for beside code; this one for nothing."""

    environment: Mapping[str, str] = {}

    def prelude(self, stdout: Path, stderr: Path) -> str | None:
        """Code that runs once, before all other; told of files whose content is output, too."""
        return None

    def before(self, asked: Asked) -> str | None:
        """Code that runs before that of a run."""
        return None

    def after(self) -> str | None:
        """Code that runs after that of a run."""
        return None

    def is_end(self, kind: str) -> bool:
        """Whether a message is what the code after a run publishes last."""
        return False

    def ended(self, ended: Ended, content: dict[str, Any]) -> Ended:
        """How the run has ended, by the content of that message (empty: it did not come)."""
        return ended

    def is_exit(self, error: dict[str, Any]) -> bool:
        """Whether an error is none but the way in which code exits."""
        return False

    async def explain(self, code: str) -> dict[str, Any] | None:
        """Why code could not be run, where the kernel itself does not say; an error's content."""
        return None

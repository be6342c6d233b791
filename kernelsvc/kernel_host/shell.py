"""IPython's shell for a program that runs cells, rather than for a person at a terminal."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.async_helpers import _asyncio_runner
from IPython.core.autocall import ZMQExitAutocall
from traitlets import default


class ExitRun(ZMQExitAutocall):
    """`exit` and `quit`: end the run with a status, never the kernel."""

    def __call__(self, code: object = None) -> None:
        """End the run; `code` means what it means to sys.exit."""
        raise SystemExit(code)


class Shell(ZMQInteractiveShell):
    """IPython's shell, answering programs rather than a person at a terminal."""

    _transformed: tuple[str, str] | None = None

    @default("exiter")
    def _default_exiter(self) -> ExitRun:
        return ExitRun(self)

    def init_environment(self) -> None:
        """No colours and no pager: the reader is a program."""
        os.environ.update(TERM="dumb", NO_COLOR="1", PAGER="cat", GIT_PAGER="cat")

    @contextlib.contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        """Keep no second copy of the output (IPython 9 keeps one for its history)."""
        yield

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show an exception; one that only ends the run is no error, but its message is said."""
        error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
        if not isinstance(error, SystemExit):
            super().showtraceback(exc_tuple, *args, **kwargs)
            return
        self._last_traceback = None
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)

    async def run_code(self, *args: Any, **kwargs: Any) -> Any:
        """Run compiled code; from here on, an interrupt is the code's."""
        self.kernel.accept_interrupts()
        return await super().run_code(*args, **kwargs)

    def awaits(self, raw_cell: str) -> bool:
        """Whether a cell has an `await` of its own, for the event loop that runs.

        What it was transformed to is kept for the `run_cell` that follows.
        """
        self._transformed = None
        try:
            cell = self.transform_cell(raw_cell)
        except Exception:  # noqa: BLE001  # run_cell will meet it again, and tell of it
            return False
        self._transformed = (raw_cell, cell)
        return self.loop_runner is _asyncio_runner and self.should_run_async(
            raw_cell, transformed_cell=cell
        )

    def transform_cell(self, raw_cell: str) -> str:
        """Python for a cell that may hold magics; once for each cell, not once for each caller."""
        kept, self._transformed = self._transformed, None
        if kept is not None and kept[0] == raw_cell:
            return kept[1]
        transformed: str = super().transform_cell(raw_cell)
        return transformed

    def should_run_async(self, raw_cell: str, *, transformed_cell: Any = None, **how: Any) -> bool:
        """Whether the cell awaits; only one that has the words for it is compiled to find out."""
        if transformed_cell and "await" not in transformed_cell and "async" not in transformed_cell:
            return False
        awaits: bool = super().should_run_async(raw_cell, transformed_cell=transformed_cell, **how)
        return awaits

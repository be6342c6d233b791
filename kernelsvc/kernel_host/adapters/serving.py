"""Serves the adapter that is asked for in the calling process, on a connection file."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from kernelsvc.kernel_host.adapters.bash import BashAdapter
from kernelsvc.kernel_host.adapters.deno import DENO
from kernelsvc.kernel_host.adapters.dialect import Dialect
from kernelsvc.kernel_host.adapters.front import Front
from kernelsvc.kernel_host.adapters.inner import InnerKernel
from kernelsvc.kernel_host.adapters.program import GO, ProgramAdapter
from kernelsvc.kernel_host.adapters.running import Adapter, end_as


def run_adapter(
    words: list[str], connection_file: str, announce: Callable[[int | None], None]
) -> NoReturn:
    """Serve until it ends, and end this process likewise.

    `words` are the adapter's name and what it needs: `bash`; `go`; `deno`; `jupyter`, how the
    kernel is interrupted (`signal` or `message`) and its command.
    """
    # Who reads is a program: no colours, no pager.
    os.environ.update(TERM="dumb", NO_COLOR="1", PAGER="cat", GIT_PAGER="cat")
    end_as(asyncio.run(_serve(words, connection_file, announce)))


async def _serve(
    words: list[str], connection_file: str, announce: Callable[[int | None], None]
) -> int:
    adapter = _adapter(words, Path(connection_file).parent)
    return await Front(connection_file, adapter).serve(announce)


def _adapter(words: list[str], directory: Path) -> Adapter:
    match words:
        case ["bash"]:
            return BashAdapter(directory)
        case ["go"]:
            return ProgramAdapter(GO, directory)
        case ["deno"]:
            return InnerKernel(DENO.argv, "message", DENO, directory)
        case ["jupyter", ("signal" | "message") as interrupt_mode, *argv]:
            return InnerKernel(argv, interrupt_mode, Dialect(), directory)
        case _:
            raise ValueError(f"there is no adapter {words}")

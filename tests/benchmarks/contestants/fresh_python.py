"""A fresh interpreter for each run, which keeps nothing."""

import asyncio
import sys

from tests.benchmarks.contestants.base import Contestant, RunFailed, Session


class FreshPythonSession(Session):
    """Nothing but a name for `python -c`."""

    async def run(self, code: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        written, _ = await process.communicate()
        if process.returncode != 0:
            raise RunFailed(f"python ended with {process.returncode}")
        return written.decode()

    async def close(self) -> None:
        return


class FreshPython(Contestant):
    """`python -c`, with the interpreter that everything else here runs on."""

    name = "python -c"

    async def create(self) -> FreshPythonSession:
        return FreshPythonSession()

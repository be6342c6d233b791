"""What is particular to Deno's kernel: how TypeScript and JavaScript run as programs do."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from kernelsvc.kernel_host.adapters.dialect import Dialect
from kernelsvc.kernel_host.adapters.running import INTERRUPTED, Asked, Ended

_PRELUDE: Final = Path(__file__).with_name("deno_prelude.js")
_OWN: Final = 'globalThis[Symbol.for("kernelsvc")]'
_END: Final = "kernelsvc_end"
_EXIT: Final = "KernelsvcExit"
_EXPLAIN_SECONDS: Final = 5.0
_SYNTAX_ERROR: Final = re.compile(
    r"error: (?:SyntaxError: )?(?P<why>[^\n]*)\n(?P<frame>.*?)\n? +at \S*?:(?P<at>\d+:\d+)",
    re.DOTALL,
)


class DenoDialect(Dialect):
    """Variables for a run, exit codes, `require`, and why code cannot be parsed."""

    argv: Final = ("deno", "jupyter", "--kernel", "--conn", "{connection_file}")
    environment: Mapping[str, str] = {
        "DENO_NO_PROMPT": "1",
        "DENO_NO_UPDATE_CHECK": "1",
        # As Node and bundlers have it: `import "./module"` finds module.ts.
        "DENO_UNSTABLE_SLOPPY_IMPORTS": "1",
    }

    def prelude(self, stdout: Path, stderr: Path) -> str:
        """What is needed below."""
        return f"await ({_PRELUDE.read_text()})({json.dumps([str(stdout), str(stderr)])})"

    def before(self, asked: Asked) -> str:
        """Set the run's variables, which travel as JSON in a text."""
        return f"{_OWN}.begin({json.dumps(json.dumps(asked.env))})"

    def after(self) -> str:
        """Unset them, and publish how the run exits."""
        return f"await {_OWN}.end()"

    def is_end(self, kind: str) -> bool:
        """What the prelude's `end` publishes."""
        return kind == _END

    def ended(self, ended: Ended, content: dict[str, Any]) -> Ended:
        """A status that the code exits with counts more than what it has thrown."""
        status = content.get("exit_code")
        if ended.ename == INTERRUPTED:
            return ended
        if isinstance(status, int):
            return Ended(status & 0xFF)
        return Ended(1) if content.get("failed") and ended == Ended() else ended

    def is_exit(self, error: dict[str, Any]) -> bool:
        """What the prelude throws where code exits."""
        return error.get("ename") == _EXIT

    async def explain(self, code: str) -> dict[str, Any] | None:
        """Why the parser refuses it. Deno's kernel keeps that to itself; its formatter tells."""
        process = await asyncio.create_subprocess_exec(
            *("deno", "fmt", "--no-config", "--check", "--ext", "ts", "-"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_EXPLAIN_SECONDS):
                _, said = await process.communicate(code.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            return None
        found = _SYNTAX_ERROR.search(said.decode(errors="replace"))
        if found is None:
            return None
        frame = [line for line in found["frame"].splitlines() if line.strip(" |")]
        why = found["why"]
        lines = [f"SyntaxError: {why}", *frame, f"    at <anonymous>:{found['at']}"]
        return {"ename": "SyntaxError", "evalue": why, "traceback": lines}


DENO: Final = DenoDialect()

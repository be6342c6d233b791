"""pip, inside of a setup's sandbox: `python -I -u run_pip.py [--no-programs] ARGUMENT...`.

With `--no-programs` it starts no other program, whatever it comes across. It builds packages by
programs, and runs nothing of a package in its own process; so nothing that was downloaded runs. (To
ask it for wheels only is not enough: that does not hold for packages that others name by a URL.)

It unpacks below the working directory, where there is room, rather than in /tmp. What it is killed
over is left in `.setup`.
"""

import errno
import os
import runpy
import shutil
import sys
from pathlib import Path

UNPACKING = ".setup"
_STARTS_A_PROGRAM = {
    *("subprocess.Popen", "os.exec", "os.fork", "os.forkpty"),
    *("os.posix_spawn", "os.spawn", "os.system", "pty.spawn"),
}


def refuse_programs(event: str, _: object) -> None:
    """An audit hook; what is refused looks like what the system would refuse."""
    if event in _STARTS_A_PROGRAM:
        raise PermissionError(errno.EPERM, "only what needs no building is installed here")


def main(arguments: list[str]) -> None:
    """Be pip."""
    if arguments[:1] == ["--no-programs"]:
        del arguments[0]
        sys.addaudithook(refuse_programs)
    unpacking = Path.cwd() / UNPACKING
    unpacking.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(unpacking)
    sys.argv = ["pip", *arguments]
    try:
        runpy.run_module("pip", run_name="__main__", alter_sys=True)
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])

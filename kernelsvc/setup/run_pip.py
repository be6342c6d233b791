"""pip, inside of a setup's sandbox: `python -I -u run_pip.py [--no-programs] ARGUMENT...`.

With `--no-programs` it starts no other program, whatever it comes across. It builds packages by
programs, and runs nothing of a package in its own process; so nothing that was downloaded runs. (To
ask it for wheels only is not enough: that does not hold for packages that others name by a URL.)

There it also keeps wheels in its cache of which their server says nothing, as simple ones do; pip
checks them against the hash that the index tells.

It unpacks below the working directory, where there is room, rather than in /tmp. What it is killed
over is left in `.setup`.
"""

import contextlib
import email.utils
import errno
import importlib
import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

UNPACKING = ".setup"
_KEEP_SECONDS = 24 * 3600
_STARTS_A_PROGRAM = {
    *("subprocess.Popen", "os.exec", "os.fork", "os.forkpty"),
    *("os.posix_spawn", "os.spawn", "os.system", "pty.spawn"),
}


def refuse_programs(event: str, _: object) -> None:
    """An audit hook; what is refused looks like what the system would refuse."""
    if event in _STARTS_A_PROGRAM:
        raise PermissionError(errno.EPERM, "only what needs no building is installed here")


def keep_wheels() -> None:
    """Have wheels kept that come without a word on whether they may be."""
    adapter: Any = importlib.import_module("pip._vendor.cachecontrol").CacheControlAdapter
    build = adapter.build_response

    def build_response(self: Any, request: Any, response: Any, *args: Any, **named: Any) -> Any:
        headers = response.headers
        is_told = any(name in headers for name in ("cache-control", "etag", "expires"))
        if urlsplit(request.url).path.endswith(".whl") and not is_told:
            headers["cache-control"] = f"max-age={_KEEP_SECONDS}"
            if "date" not in headers:
                headers["date"] = email.utils.formatdate(usegmt=True)
        return build(self, request, response, *args, **named)

    adapter.build_response = build_response


def main(arguments: list[str]) -> None:
    """Be pip."""
    if arguments[:1] == ["--no-programs"]:
        del arguments[0]
        sys.addaudithook(refuse_programs)
        with contextlib.suppress(ImportError, AttributeError):
            # What pip comes with may be otherwise some day; it then keeps what it is told to.
            keep_wheels()
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

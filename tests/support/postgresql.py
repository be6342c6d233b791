"""A PostgreSQL server of a test's own."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final, Self

_SHUTDOWN_SECONDS: Final = 20
_READY: Final = "ready to accept connections"
_SETTINGS: Final = {
    "listen_addresses": "",
    # It lives as long as a test does: no machine loses power meanwhile.
    "fsync": "off",
    "shared_buffers": "16MB",
    # It gives times in its own zone.
    "timezone": "Asia/Kolkata",
}


class PostgreSQL:
    """Its one database is empty, and found at `url`; a context manager."""

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="ks"))
        # It does not run as root.
        self._user: dict[str, Any] = {"cwd": self.directory}
        if os.getuid() == 0:
            self._user |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.directory, "nobody", "nogroup")
        data = str(self.directory / "data")
        making = ["--pgdata", data, "--username", "kernelsvc", "--auth", "trust", "--no-sync"]
        encoding = ["--encoding", "UTF8", "--no-locale"]
        subprocess.run(
            [_program("initdb"), *making, *encoding],
            stdout=subprocess.DEVNULL,
            check=True,
            **self._user,
        )
        settings = _SETTINGS | {"unix_socket_directories": str(self.directory)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._server = subprocess.Popen(
            [_program("postgres"), "-D", data, *options],
            stderr=subprocess.PIPE,
            text=True,
            **self._user,
        )
        assert self._server.stderr is not None
        while _READY not in (line := self._server.stderr.readline()):
            assert line, "PostgreSQL did not start"
        return self

    def __exit__(self, *_: object) -> None:
        # It does not wait for its clients then.
        self._server.send_signal(signal.SIGINT)
        self._server.communicate(timeout=_SHUTDOWN_SECONDS)
        shutil.rmtree(self.directory)

    @property
    def url(self) -> str:
        """As `database_url` has it."""
        return f"postgresql+psycopg://kernelsvc@/postgres?host={self.directory}"


def _program(name: str) -> str:
    """Debian keeps its programs apart, those of each version in a directory of its own."""
    apart = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(apart[-1]) if apart else name

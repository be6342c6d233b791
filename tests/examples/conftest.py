"""A service as a user has it: `kernelsvc serve` in a process of its own, used over HTTP only."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.shell import ANNOUNCEMENT, Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with default settings on a free port; it must stop in good order on SIGTERM."""
    directory = tmp_path_factory.mktemp("service")
    runtime = Path(tempfile.mkdtemp(prefix="ks"))  # sockets need a shorter path than pytest's
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KERNELSVC_")}
    command = [sys.executable, "-m", "kernelsvc", "serve", "--port", "0"]
    command += ["--data-dir", str(directory / "data"), "--log-format", "json"]
    with (
        open(directory / "log", "w+") as log,
        subprocess.Popen(
            command,
            cwd=directory,
            env={**environment, "KERNELSVC_RUNTIME_DIR": str(runtime)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()  # empty where it ended instead
            assert line.startswith(ANNOUNCEMENT), (directory / "log").read_text()
            yield Service(line.removeprefix(ANNOUNCEMENT).strip(), directory)
            process.terminate()
            assert process.wait(timeout=60) == 0, (directory / "log").read_text()
        finally:
            process.kill()
    assert list(runtime.glob("*/")) == [], "the service left runtime directories behind"
    shutil.rmtree(runtime)

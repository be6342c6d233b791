"""What a kernel imports: by its host all that it needs, from the workspace only what is asked."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from tests.support.api import Api

_START_A_KERNEL = """
import os, socket, sys
from kernelsvc.kernel_host import app, imports
imports.preload()
before = set(sys.modules)
def announce():
    open(sys.argv[2], "w").write(" ".join(sorted(set(sys.modules) - before)))
    app.os_exit(0)
app.run_kernel(sys.argv[1], announce, socket.socketpair()[0])
"""


def test_a_kernel_that_starts_imports_nothing(tmp_path: Path) -> None:
    connection = {
        "transport": "ipc", "ip": str(tmp_path / "ipc"), "key": "k" * 32,
        "signature_scheme": "hmac-sha256", "kernel_name": "",
        **{f"{channel}_port": port for port, channel in enumerate(
            ("shell", "iopub", "stdin", "control", "hb"), start=1)},
    }  # fmt: skip
    connection_file = tmp_path / "kernel.json"
    connection_file.write_text(json.dumps(connection))
    started = subprocess.run(
        [sys.executable, "-s", "-P", "-c", _START_A_KERNEL, connection_file, tmp_path / "told"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        env={"IPYTHONDIR": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    assert (tmp_path / "told").read_text() == ""


async def test_code_imports_the_modules_of_its_workspace(api):
    await api.create("s")
    await api.run("open('helper.py', 'w').write('answer = 42')")
    assert (await api.run("import helper; helper.answer"))["text"] == "42"


async def test_a_module_of_the_workspace_does_not_hide_the_standard_librarys(api):
    await api.create("s")
    await api.run("open('graphlib.py', 'w').write('raise RuntimeError')")
    assert (await api.run("import graphlib; graphlib.CycleError.__name__"))["exit_code"] == 0


NUMBERS = """
import sys, numpy, random, uuid, tempfile, ssl
print("pandas" in sys.modules, numpy.random.random(), random.random(), uuid.uuid4(),
      ssl.RAND_bytes(8).hex(), numpy.random.default_rng().random(),
      next(tempfile._get_candidate_names()))
"""
FIGURE = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"


def test_modules_are_preloaded_and_every_kernel_has_random_numbers_of_its_own(io_loop, serve):
    server = serve(preload=("numpy", "pandas", "matplotlib"))

    async def use():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            api, told = Api(http), []
            await api.create("s")
            for _ in range(3):
                run = await api.run("import sys; print('pandas' in sys.modules)")
                assert run["stdout"] == "True\n", run
                told.append((await api.run(NUMBERS))["stdout"].split())
                await api.send("POST", "/api/sessions/s/restart")
            for numbers in list(zip(*told, strict=True))[1:]:
                assert len(set(numbers)) == 3, numbers
            (figure,) = (await api.run(FIGURE))["outputs"]
            assert "image/png" in figure["data"]

    io_loop.run_sync(use)


@pytest.mark.parametrize("name", ["no_such_module_here", "os; print(1)", "../os"])
def test_a_module_that_cannot_be_preloaded_is_told_before_anything_starts(make_settings, name):
    with pytest.raises(ValidationError, match="preload"):
        make_settings(preload=(name,))

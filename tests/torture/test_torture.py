"""A short torture of a real service; `python -m tests.torture` is the long one."""

import subprocess
import sys

SEED = 4


def test_nothing_is_lost_and_nothing_left_whatever_happens():
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--seed", str(SEED),
         "--operations", "60", "--kills", "2", "--stops", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"seed {SEED}\n" in done.stdout
    for once in ("kill the service", "kill the service and start it when all has ended",
                 "live copies outlived a service"):  # fmt: skip
        assert f" 1  {once}\n" in done.stdout
    assert "every invariant held" in done.stdout

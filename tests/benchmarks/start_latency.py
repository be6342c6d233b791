"""What a sandbox costs at the start of a kernel.

`python -m tests.benchmarks.start_latency` starts kernels with and without a sandbox in turn, each
with a host of its own, and prints medians and their ratio.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from kernelsvc.kernels.languages import kernelspec_of
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.runtime import RuntimeDirectory
from kernelsvc.models.limits import DEFAULT_LIMITS
from kernelsvc.sandbox.doctor import SandboxOptions, examine
from kernelsvc.sandbox.isolation import Isolation


async def start_once(launcher: Launcher, workspace: Path) -> float:
    """Seconds until a kernel of its own host takes requests."""
    began = time.perf_counter()
    seat = await launcher.seat(kernelspec_of("python"), workspace, DEFAULT_LIMITS)
    try:
        kernel = await launcher.start(seat, kernelspec_of("python"), lambda request_id, event: None)
        seconds = time.perf_counter() - began
        await kernel.close()
    finally:
        await seat.close()
    return seconds


async def measure(rounds: int) -> dict[str, list[float]]:
    """The seconds of each start, sandboxed or not."""
    examination = examine(SandboxOptions(True, 1 << 28, 1 << 26, 60878))
    if not examination.holds:
        raise SystemExit("there is no sandbox here; `kernelsvc doctor` says why")
    sandboxed = examination.isolation
    isolations = {"no sandbox": Isolation(None), "sandbox and limits": sandboxed}
    seconds: dict[str, list[float]] = {name: [] for name in isolations}
    async with AsyncExitStack() as stack:
        stack.callback(sandboxed.close)
        runtime = RuntimeDirectory(None)
        runtime.open()
        stack.callback(runtime.close)
        launchers = {}
        for name, isolation in isolations.items():
            launchers[name] = Launcher(runtime, isolation, patience=60)
            stack.callback(launchers[name].close)
        for number in range(-1, rounds):
            for name, launcher in launchers.items():
                with tempfile.TemporaryDirectory() as directory:
                    owner = isolations[name].owner
                    if owner is not None:
                        os.chown(directory, *owner)
                    taken = await start_once(launcher, Path(directory))
                if number >= 0:
                    seconds[name].append(taken)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    seconds = asyncio.run(measure(parser.parse_args().rounds))
    for name, values in seconds.items():
        print(f"{name:20} median {statistics.median(values) * 1e3:7.1f} ms")
    plain, sandboxed = (statistics.median(values) for values in seconds.values())
    print(f"ratio {sandboxed / plain:.3f}")


if __name__ == "__main__":
    main()

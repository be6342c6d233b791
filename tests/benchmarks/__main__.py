"""The benchmark suite: `python -m tests.benchmarks`; README.md beside this file says more."""

import argparse
import asyncio
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from tests.benchmarks.figures import Row
from tests.benchmarks.parts import (
    burst,
    cpu,
    create,
    cycles,
    first_event,
    fork,
    memory,
    output,
    rollback,
    run_latency,
    snapshots,
    throughput,
    timeout,
    wake,
)
from tests.benchmarks.plan import Plan, Unmeasurable
from tests.benchmarks.table import render
from tests.benchmarks.versions import PEERS, version_of, versions

Part = Callable[[Plan], Awaitable[list[Row]]]

PARTS: dict[str, Part] = {
    "run_latency": run_latency.measure,
    "create": create.measure,
    "wake": wake.measure,
    "fork": fork.measure,
    "timeout": timeout.measure,
    "burst": burst.measure,
    "throughput": throughput.measure,
    "cpu": cpu.measure,
    "output": output.measure,
    "first_event": first_event.measure,
    "memory": memory.measure,
    "snapshots": snapshots.measure,
}
# These check more than they compare, and take minutes: only where they are named.
ON_REQUEST: dict[str, Part] = {"cycles": cycles.measure, "rollback": rollback.measure}
ALL = PARTS | ON_REQUEST
_LONGEST_SECONDS = 3600


def parts(text: str) -> list[str]:
    """The names in a list with commas."""
    names = [name for name in text.split(",") if name]
    if not names or (unknown := [name for name in names if name not in ALL]):
        raise argparse.ArgumentTypeError(
            f"no such part: {unknown[0]!r}; there are {', '.join(ALL)}"
        )
    return names


def positive(text: str) -> int:
    """A number above 0."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


async def measure(names: Sequence[str], plan: Plan, table: list[Row]) -> bool:
    """Add the rows of these parts to the table; whether all of them could be measured."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    complete = True
    for name in names:
        began = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                table += await ALL[name](plan)
            print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        except Unmeasurable as error:
            complete = False
            print(f"not measured: {error}", file=sys.stderr, flush=True)
        except Exception:  # noqa: BLE001
            # The other parts' figures took minutes; they are not to be lost for this.
            complete = False
            traceback.print_exc()
            if task.cancelling():
                break
    return complete


def main() -> int:
    """Measure and print; 0 unless something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", type=parts, default=[*PARTS], metavar="PART[,PART]",
                        help=f"these only, of {', '.join(ALL)}")  # fmt: skip
    parser.add_argument("--rounds", type=positive, metavar="N", help="in place of each part's own")
    parser.add_argument("--quick", action="store_true", help="see that it works; too few to tell")
    arguments = parser.parse_args()
    missing = [name for name in PEERS if version_of(name) is None]
    if missing and not set(arguments.only) <= ON_REQUEST.keys():
        print(f"{' and '.join(missing)}: pip install -e '.[benchmarks]'", file=sys.stderr)
        return 2
    about = versions()
    table: list[Row] = []
    complete = False
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        complete = asyncio.run(
            measure(arguments.only, Plan(arguments.rounds, arguments.quick), table)
        )
    print(f"{about}\n\n{render(table)}")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())

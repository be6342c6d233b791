"""Create, run, delete, over and over: nothing may be left behind.

`python -m tests.benchmarks.cycles` runs 1,000 cycles, four at a time, on a service in this process
and prints what it holds before and after; it ends with status 1 where the two differ.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import httpx

from kernelsvc.app import serving
from kernelsvc.logs import configure_logging
from kernelsvc.settings import load_settings
from tests.support.api import Api
from tests.support.leaks import Holdings, holdings

_WARM_UP = 8
_AT_ONCE = 4
_SETTLE_SECONDS = 10


async def cycle(api: Api, number: int) -> None:
    """One session's whole life."""
    session_id = f"cycle-{number}"
    await api.create(session_id)
    run = await api.run("open('f', 'w').write('x')\nprint('y' * 1000)", session_id)
    assert run["exit_code"] == 0, run
    answer = await api.send("DELETE", f"/api/sessions/{session_id}")
    assert answer.status == 200, answer


async def cycles(api: Api, numbers: range) -> None:
    """These cycles, a few at a time."""
    for start in range(numbers.start, numbers.stop, _AT_ONCE):
        await asyncio.gather(
            *(cycle(api, n) for n in range(start, min(start + _AT_ONCE, numbers.stop)))
        )


async def settled(expected: Holdings, *directories: Path) -> Holdings:
    """What is held when it equals `expected`, or when there was time enough for that."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (now := holdings(*directories)) != expected and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return now


async def measure(count: int) -> bool:
    """Run the cycles; whether nothing was left."""
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory(prefix="ks") as runtime:
        directories = (Path(data), Path(runtime))
        settings = load_settings(port=0, data_dir=Path(data), runtime_dir=Path(runtime))
        async with serving(settings) as server, httpx.AsyncClient(base_url=server.url) as http:
            api = Api(http)
            await cycles(api, range(_WARM_UP))
            before = holdings(*directories)
            began = time.monotonic()
            await cycles(api, range(_WARM_UP, _WARM_UP + count))
            seconds = time.monotonic() - began
            after = await settled(before, *directories)
            print(f"{count} cycles in {seconds:.0f} s, {count / seconds:.1f} a second")
            print(f"before {before}\nafter  {after}")
            return before == after


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    configure_logging("human", "warning")
    return 0 if asyncio.run(measure(parser.parse_args().count)) else 1


if __name__ == "__main__":
    sys.exit(main())

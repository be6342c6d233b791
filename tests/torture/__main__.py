"""Torture a service: `python -m tests.torture`; README.md beside this file says more."""

import argparse
import secrets
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Final

from kernelsvc.kernel_host.processes import adopt_orphans
from tests.torture import world
from tests.torture.journal import Journal
from tests.torture.service import Service
from tests.torture.torture import Plan, Torture

_LOG_LINES: Final = 60


def torture(plan: Plan) -> bool:
    """Whether every invariant held; prints what was done, or all that was sent and answered."""
    print(f"seed {plan.seed}", flush=True)
    began, journal, service = time.monotonic(), Journal(), Service()
    # Whatever a service leaves behind becomes a child of this process.
    adopt_orphans()

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {plan.operations}", end="", file=sys.stderr, flush=True)

    try:
        with service:
            try:
                Torture(plan, service, journal).run(progress)
            except BaseException:
                print(*journal.lines, "", *service.log.read_text().splitlines()[-_LOG_LINES:],
                      sep="\n")  # fmt: skip
                raise
    except Exception:  # noqa: BLE001
        # Whatever it is: what has happened until then is the report.
        traceback.print_exc(file=sys.stdout)
        print(f"after {journal.operations.total()} operations with seed {plan.seed}")
        return False
    finally:
        for process in world.processes():
            process.kill()
    print(journal.report())
    print(f"every invariant held; {time.monotonic() - began:.0f} s")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and torture; 0 where every invariant held."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--operations", type=int, default=1000, metavar="N")
    parser.add_argument("--kills", type=int, default=20, metavar="N",
                        help="how often the service gets SIGKILL")  # fmt: skip
    parser.add_argument("--stops", type=int, default=None, metavar="N",
                        help="how often it gets SIGTERM; half as often, unless given")  # fmt: skip
    parser.add_argument("--seed", type=int, default=None, metavar="N",
                        help="what another one has printed, to do the same again")  # fmt: skip
    given = parser.parse_args(arguments)
    seed = secrets.randbits(32) if given.seed is None else given.seed
    stops = given.kills // 2 if given.stops is None else given.stops
    return 0 if torture(Plan(seed, given.operations, given.kills, stops)) else 1


if __name__ == "__main__":
    sys.exit(main())

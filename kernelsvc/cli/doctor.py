"""`kernelsvc doctor`."""

import argparse

from kernelsvc.cli.serve import settings_from
from kernelsvc.from_settings import sandbox_options
from kernelsvc.sandbox.doctor import Verdict, examine, machine


def doctor(arguments: argparse.Namespace) -> int:
    """Print what this machine can and cannot do; 1 where the sandbox would not hold."""
    settings = settings_from(arguments)
    if settings is None:
        return 2
    examination = examine(sandbox_options(settings))
    examination.isolation.close()
    print(machine())
    for finding in examination.findings:
        print(f"{finding.verdict:8}{finding.name:10}{finding.detail}")
        if finding.verdict is not Verdict.OK:
            print(f"{'':18}mend: {finding.mend}")
    if examination.holds:
        print("Kernels are sandboxed.")
        return 0
    print("Kernels would NOT be sandboxed: code would run with all rights of this user.")
    return 1

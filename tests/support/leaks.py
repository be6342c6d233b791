"""What a service holds: counted before and after, it must be the same."""

import asyncio
import gc
import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.named import of_this_process


@dataclass(frozen=True)
class Holdings:
    """Processes, descriptors, tasks and files of a service that runs in this process."""

    processes: int
    descriptors: int
    tasks: int
    files: int


def holdings(*directories: Path) -> Holdings:
    """What is held now; the files are those below `directories`."""
    gc.collect()
    return Holdings(
        processes=len(of_this_process()),
        descriptors=len(os.listdir("/proc/self/fd")),
        tasks=len(asyncio.all_tasks()),
        files=sum(
            len(names) + len(folders) for d in directories for _, folders, names in os.walk(d)
        ),
    )

"""One run's code in a kernel, under its timeout."""

import sys
from collections.abc import Callable

from kernelsvc import clock
from kernelsvc.kernels.kernel import Kernel
from kernelsvc.kernels.ladder import Ending, StopSignal, run_to_end
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.environment import run_environment
from kernelsvc.sessions.going import Going
from kernelsvc.sessions.job import RunJob
from kernelsvc.sessions.policy import SessionPolicy


async def execute(
    kernel: Kernel,
    job: RunJob,
    record: SessionRecord,
    policy: SessionPolicy,
    stop: StopSignal,
    follow: Callable[[str, str], None],
    note: Callable[[Going], None],
) -> Ending:
    """Run the job's code to its end, by itself or by force.

    `follow` is told which execute request is the run's, `note` all that a service would need which
    finds it going on.
    """
    request, own = job.request, record.default_timeout
    # A session may be older than the ceiling that holds now.
    default = policy.default_timeout if own is None else min(own, policy.max_timeout)
    environment = run_environment(record, request.env, policy.base_url)
    timeout = default if request.timeout is None else request.timeout
    on_timeout = request.on_timeout or record.on_timeout
    started_at = clock.boottime()
    most = snapshot_bytes(record, policy)

    def begins(request_id: str) -> None:
        follow(request_id, job.run_id)
        job.going = Going.of(job, request_id, timeout, on_timeout, started_at)
        note(job.going)

    execution = kernel.execute(job.code, environment, request.stdin, job.events.add, begins, most)
    return await run_to_end(
        kernel,
        execution,
        timeout=timeout,
        on_timeout=on_timeout,
        started_at=started_at,
        stop=stop,
        grace=policy.grace,
    )


def wants_snapshots(record: SessionRecord, policy: SessionPolicy) -> bool:
    """Whether snapshots of its memory are wanted: its own word for it, or else the service's."""
    wanted = policy.snapshots if record.snapshots is None else record.snapshots
    return wanted and record.persistent


def snapshot_bytes(record: SessionRecord, policy: SessionPolicy) -> int | None:
    """Up to how much memory is copied behind a run of this session; None where nothing is.

    Kernels that take no snapshots pass it over.
    """
    if not wants_snapshots(record, policy):
        return None
    memory = record.limits.over(policy.limits).memory
    return sys.maxsize if memory is None else int(memory * policy.snapshot_share)

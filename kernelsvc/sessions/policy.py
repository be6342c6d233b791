"""The numbers that sessions go by, from the configuration."""

from dataclasses import dataclass

from kernelsvc.kernels.ladder import Grace
from kernelsvc.models.limits import Limits
from kernelsvc.sessions.capacity import CapacityPolicy


@dataclass(frozen=True)
class MemoryPolicy:
    """Whether sleep keeps memory; how long, in seconds, it may take to save or to restore it."""

    keep: bool
    seconds: float
    most_bytes: int


@dataclass(frozen=True)
class SessionPolicy:
    """Times in seconds, sizes in bytes.

    What a session's kernel holds is kept while it sleeps, if that takes no more than `memory`.
    `max_queued_runs` may wait in one session behind the one that executes. `background_bytes` of
    what a run's threads print after its end are kept. A session of which at most `snapshot_share`
    of the memory that it may use is in use has snapshots. `snapshots`, `limits` and
    `internet_by_default` hold for sessions that say nothing of it.
    """

    default_timeout: float
    max_timeout: float
    sleep_after: float
    snapshots: bool
    snapshot_share: float
    max_queued_runs: int
    max_output_bytes: int
    max_data_bytes: int
    background_bytes: int
    limits: Limits
    internet_by_default: bool
    max_sessions: int
    max_proxy_connections: int
    capacity: CapacityPolicy
    grace: Grace
    base_url: str
    memory: MemoryPolicy

"""What every live session works with."""

from collections.abc import Callable
from dataclasses import dataclass

from kernelsvc.files.workspace import Workspaces
from kernelsvc.kernels.languages import Languages
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.orphans import Orphan
from kernelsvc.kernels.pool import Pool
from kernelsvc.metrics import Metrics
from kernelsvc.sessions.policy import SessionPolicy
from kernelsvc.setup.sandboxes import SetupParts
from kernelsvc.store.accepted import AcceptedStore
from kernelsvc.store.code import CodeStore
from kernelsvc.store.runs import RunStore
from kernelsvc.store.sessions import SessionStore


@dataclass(frozen=True)
class SessionParts:
    """What every live session works with.

    `check_callback` raises InvalidRequest for a URL that no run may be sent to. `orphans` are what
    an earlier service has left of its kernels.
    """

    policy: SessionPolicy
    languages: Languages
    launcher: Launcher
    pool: Pool
    workspaces: Workspaces
    sessions: SessionStore
    runs: RunStore
    metrics: Metrics
    accepted: AcceptedStore
    check_callback: Callable[[str], None]
    code: CodeStore
    setups: SetupParts
    orphans: tuple[Orphan, ...] = ()

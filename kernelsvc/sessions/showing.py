"""A session as callers see it."""

from kernelsvc.models.session import Session, SessionRecord
from kernelsvc.sessions.executing import wants_snapshots
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.parts import SessionParts

_SHOWN = (
    "id",
    "language",
    "persistent",
    "created_at",
    "last_run_at",
    "default_timeout",
    "on_timeout",
    "env",
    "metadata",
    "data",
    "run_count",
    "owner",
    "setup",
)


async def show(
    record: SessionRecord,
    live: LiveSession | None,
    state: str,
    usage: tuple[int, int],
    parts: SessionParts,
) -> Session:
    """What lasts of it, and what is in memory; `usage` is how many files there are, and bytes."""
    policy, own = parts.policy, record.sleep_after
    count, size = usage
    return Session(
        **{name: getattr(record, name) for name in _SHOWN},
        state=state,
        state_detail=live.state_detail if live else None,
        sleep_after=policy.sleep_after if own is None else own,
        snapshots=(
            wants_snapshots(record, policy) and parts.languages.have_snapshots(record.language)
        ),
        limits=record.limits.over(policy.limits),
        file_count=count,
        total_size_bytes=size,
        setup_status=live.setup.status(record) if live else record.setup_status,
        setup_result=await live.setup.result(record) if live else record.setup_result,
        restored=list(live.woken.restored) if live else [],
        not_restored=list(live.woken.not_restored) if live else [],
        allowInternetAccess=record.allow_internet_access,
        allowPublicAccess=record.allow_public_access,
    )

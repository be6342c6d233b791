"""A session's setup, until it has ended: as its first turn."""

from collections.abc import Awaitable, Callable
from typing import Any

from kernelsvc.kernels.seat import Seat
from kernelsvc.models.limits import Limits
from kernelsvc.models.session import SessionRecord
from kernelsvc.models.setup import SetupResult, SetupStatus
from kernelsvc.sessions.capacity import Capacity
from kernelsvc.sessions.turns import Turns
from kernelsvc.setup.job import SetupJob
from kernelsvc.setup.sandboxes import SetupParts


class SettingUp:
    """Nothing, for a session that needs no setup (any more): what is told of it is in the record.

    `keep` is given what has changed in the record at the end.
    """

    def __init__(self, keep: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._job: SetupJob | None = None
        self._keep = keep

    def begin(
        self,
        record: SessionRecord,
        parts: SetupParts,
        limits: Limits,
        capacity: Capacity,
        turns: Turns,
    ) -> None:
        """Take a turn for the setup, where one is pending."""
        if record.setup is None or record.setup_status != "pending":
            return
        take, give_back = capacity.take, capacity.give_back
        job = self._job = SetupJob(parts, record.id, record.setup, limits, take, give_back)
        turns.begin(lambda: self._do(job))

    async def _do(self, job: SetupJob) -> None:
        """Do it; one that is closed before its end stays pending, and is begun anew some day."""
        try:
            result = await job.run()
            if result is not None:
                status = "completed" if result.success else "failed"
                await self._keep({"setup_status": status, "setup_result": result})
        finally:
            self._job = None

    @property
    def is_going_on(self) -> bool:
        """Whether it waits for its turn or has it."""
        return self._job is not None

    @property
    def seat(self) -> Seat | None:
        """Where its programs run just now."""
        return None if self._job is None else self._job.seat

    def status(self, record: SessionRecord) -> SetupStatus | None:
        """How far it is; None where there is none."""
        return record.setup_status if self._job is None else self._job.status

    async def result(self, record: SessionRecord) -> SetupResult | None:
        """How it went, or how far it has come."""
        return record.setup_result if self._job is None else await self._job.progress()

    def stop(self, reason: str) -> None:
        """End it, if it goes on: it has failed because of that."""
        if self._job is not None:
            self._job.stop(reason)

    def close(self) -> None:
        """End it, if it goes on; the session is being closed."""
        if self._job is not None:
            self._job.close()

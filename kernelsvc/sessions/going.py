"""A run that goes on, as the next service has to know it, should this one be killed."""

from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from kernelsvc.models.fields import OnTimeout

if TYPE_CHECKING:
    from kernelsvc.sessions.job import RunJob


class Going(BaseModel):
    """`began` is when it was begun, by CLOCK_BOOTTIME, `timeout` what it had then, in seconds.

    `is_promised`: it is to be in the history however it ends. `data_seen` is what the session's
    data file was like then. With `has_news`, its answer is the first of the kernel's, and has to
    tell of the memory. `completed` is what the kernel calls the memory that it had before.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    request_id: str
    code: str
    queued_at: datetime
    started_at: datetime
    queue_seconds: float
    began: float
    timeout: float
    on_timeout: OnTimeout
    background: bool
    callback_url: str | None
    is_promised: bool
    data_seen: tuple[int, int, int, int] | None
    has_news: bool
    completed: str | None

    @classmethod
    def of(
        cls, job: "RunJob", request_id: str, timeout: float, on_timeout: OnTimeout, began: float
    ) -> "Going":
        """That of a run which has begun."""
        assert job.started_at is not None
        return cls.model_construct(
            run_id=job.run_id,
            request_id=request_id,
            code=job.code,
            queued_at=job.queued_at,
            started_at=job.started_at,
            queue_seconds=job.queue_seconds,
            began=began,
            timeout=timeout,
            on_timeout=on_timeout,
            background=job.request.background,
            callback_url=job.request.callback_url,
            is_promised=job.accepted is not None,
            data_seen=job.data_seen,
            has_news=job.has_news,
            completed=None,
        )

    def line(self, completed: str | None) -> bytes:
        """As JSON in one line, with what was completed before."""
        return self.model_copy(update={"completed": completed}).model_dump_json().encode()

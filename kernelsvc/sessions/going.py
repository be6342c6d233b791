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
    `is_replaced`: the run has cost its kernel, and another is there with that memory.
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
    is_replaced: bool

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
            is_replaced=False,
        )

    def line(self, completed: str | None, *, is_replaced: bool = False) -> bytes:
        """As JSON in one line, with what was completed before."""
        update = {"completed": completed, "is_replaced": is_replaced}
        return self.model_copy(update=update).model_dump_json().encode()

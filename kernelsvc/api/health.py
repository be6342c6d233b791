"""/health and /metrics: whether the process lives, can do its work, and what it has done."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel

from kernelsvc import __version__, clock
from kernelsvc.api.base import ApiHandler
from kernelsvc.api.operations import Bytes, operation
from kernelsvc.errors import Forbidden, NotReady
from kernelsvc.metrics import CONTENT_TYPE
from kernelsvc.models.fields import UtcTime


class Health(BaseModel):
    """The service is well."""

    status: Literal["ok"] = "ok"


class HealthReport(BaseModel):
    """The service is well: which one it is, and its time."""

    status: Literal["healthy"] = "healthy"
    timestamp: Annotated[datetime, UtcTime]
    version: str = __version__


class HealthHandler(ApiHandler):
    """/health"""

    needs_key = False

    @operation(HealthReport)
    async def get(self) -> None:
        """200 while the process answers at all, as ERA's clients ask for it."""
        self.answer(HealthReport(timestamp=clock.now()))


class LiveHandler(ApiHandler):
    """/health/live"""

    needs_key = False

    @operation(Health)
    async def get(self) -> None:
        """200 while the process answers at all."""
        self.answer(Health())


class ReadyHandler(ApiHandler):
    """/health/ready"""

    needs_key = False

    @operation(Health, errors=(NotReady,))
    async def get(self) -> None:
        """200 only while a session could be created now; else 503, which says why."""
        await self.context.check_ready()
        self.answer(Health())


class MetricsHandler(ApiHandler):
    """/metrics"""

    @operation(Bytes(CONTENT_TYPE.partition(";")[0]))
    async def get(self) -> None:
        """Get what the service counts of itself, for Prometheus. A key needs the scope `admin`."""
        if "admin" not in self.caller.scopes:
            raise Forbidden("only a key with the scope admin may read the metrics")
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(self.context.metrics.text())

"""/health: whether the process lives, and whether it can do its work."""

from typing import Literal

from pydantic import BaseModel

from kernelsvc.api.base import ApiHandler
from kernelsvc.api.operations import operation
from kernelsvc.errors import NotReady


class Health(BaseModel):
    """The service is well."""

    status: Literal["ok"] = "ok"


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

"""The end of a session's kernel in good order: to sleep, or because the service ends."""

from collections.abc import Callable

import structlog

from kernelsvc.errors import SessionBusy
from kernelsvc.kernels.ladder import Grace
from kernelsvc.sessions.background import BackgroundOutput
from kernelsvc.sessions.lasting import Lasting
from kernelsvc.sessions.memory import SessionMemory
from kernelsvc.sessions.slot import KernelSlot

log = structlog.get_logger()


class Leaving:
    """Called in the session's turn."""

    def __init__(
        self,
        lasting: Lasting,
        slot: KernelSlot,
        memory: SessionMemory,
        background: BackgroundOutput,
        grace: Grace,
    ) -> None:
        self._lasting = lasting
        self._slot = slot
        self._memory = memory
        self._background = background
        self._grace = grace

    async def end_kernel(self, is_needed: Callable[[], bool]) -> None:
        """End the kernel politely, and keep what it holds and what it has left behind.

        Raises SessionBusy where it is needed meanwhile, as by a run that has come.
        """
        if self._slot.kernel is not None:
            session_id = self._lasting.settings.id
            memory = await self._memory.save(gives_way=True)
            if is_needed():
                self._memory.outdate()
                raise SessionBusy(session_id)
            # Known before the kernel ends: the service may be killed in between.
            await self._lasting.change({"memory": memory})
            await self._slot.leave(self._grace)
            data = self._lasting.data
            await data.take()
            await self._lasting.change({"data": data.value})
            log.info("session_slept", session_id=session_id)
        await self._background.save()

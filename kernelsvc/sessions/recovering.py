"""Runs that an earlier service had taken, and that no service sees through.

Theory of operation. A run that was promised is written down until it is in the history. What is
still written down when a service starts goes on in a kernel that was found again, or it ended with
the service, as far as it had begun. It says of the memory what the session's next run will find.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.job import RunJob
from kernelsvc.sessions.live import LiveSession
from kernelsvc.sessions.parts import SessionParts

log = structlog.get_logger()


class Recovering:
    """Done once, when a service starts and the sessions are in `live` whose kernels were found.

    `awake` brings another one there.
    """

    def __init__(
        self,
        parts: SessionParts,
        live: Mapping[str, LiveSession],
        awake: Callable[[SessionRecord], LiveSession],
    ) -> None:
        self._parts = parts
        self._live = live
        self._awake = awake

    async def recover(self, greetings: Mapping[str, asyncio.Future[None]]) -> None:
        """Put those runs into the histories.

        A session's greeting is waited for: before it, nobody knows what its kernel holds, and what
        ran there last may be over with it.
        """
        left = await self._parts.accepted.unfulfilled()
        waited = {greetings[run.session_id] for run in left if run.session_id in greetings}
        if waited:
            await asyncio.wait(waited)
            left = await self._parts.accepted.unfulfilled()
        for run in left:
            live = self._live.get(run.session_id)
            if live is None:
                record = await self._parts.sessions.get(run.session_id)
                if record is None:
                    continue
                live = self._awake(record)
                live.presume_begun()
            if live.jobs.get(run.run_id) is None:
                log.warning("run_not_seen_through", session_id=run.session_id, run_id=run.run_id)
                await live.give_up(RunJob.left(run, live.record.language))

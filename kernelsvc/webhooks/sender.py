"""Sends what is due, again and again with growing pauses, until it is taken or given up.

Theory of operation. What is to be sent is in the store before anybody is answered that the run has
ended, and goes from there when the other side has taken it. So a delivery outlives the service; one
that the service was killed in the middle of is made again, under the same id.
"""

import asyncio
import math
import random
from dataclasses import dataclass
from datetime import timedelta

import structlog

from kernelsvc import clock
from kernelsvc.store.deliveries import Delivery, DeliveryStore
from kernelsvc.webhooks.post import NotTaken, Poster
from kernelsvc.webhooks.signature import signature

_AT_ONCE = 16
_TROUBLE_SECONDS = 5.0
_JITTER = 0.1

log = structlog.get_logger()


@dataclass(frozen=True)
class RetryPolicy:
    """The first pause and the longest, in seconds; each is twice the one before.

    After `attempts` it is given up.
    """

    first_pause: float = 2.0
    longest_pause: float = 3600.0
    attempts: int = 16

    def pause(self, attempts: int) -> float:
        """How long to wait after so many attempts that failed."""
        return min(self.longest_pause, self.first_pause * 2.0 ** min(attempts - 1, 40))


class Sender:
    """One task that waits for what is due, and one for each delivery that is being made."""

    def __init__(
        self, store: DeliveryStore, poster: Poster, secret: str, retry: RetryPolicy
    ) -> None:
        self._store = store
        self._poster = poster
        self._secret = secret
        self._retry = retry
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sending: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin, with what an earlier service has left."""
        self._task = asyncio.create_task(self._send_all())

    async def stop(self) -> None:
        """End; what is being sent is sent again by the next service."""
        tasks = [task for task in (self._task, *self._sending.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Something new is due."""
        self._changed.set()

    async def _send_all(self) -> None:
        while True:
            self._changed.clear()
            try:
                seconds = await self._begin_due()
            except Exception:
                # The database does not answer; it may again.
                log.exception("deliveries_not_read")
                seconds = _TROUBLE_SECONDS
            await self._wait(seconds)

    async def _begin_due(self) -> float:
        """Begin what is due; the seconds until the next is."""
        room = _AT_ONCE - len(self._sending)
        if room <= 0:
            return math.inf
        for delivery in await self._store.due(clock.now(), set(self._sending), room):
            self._sending[delivery.id] = asyncio.create_task(self._send(delivery))
        if len(self._sending) >= _AT_ONCE:
            return math.inf
        due_at = await self._store.next_due(set(self._sending))
        return math.inf if due_at is None else max(0.0, (due_at - clock.now()).total_seconds())

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _send(self, delivery: Delivery) -> None:
        try:
            await self._attempt(delivery)
        except Exception:
            log.exception("delivery_failed", delivery_id=delivery.id, run_id=delivery.run_id)
            await asyncio.sleep(_TROUBLE_SECONDS)
        finally:
            del self._sending[delivery.id]
            self.wake()

    async def _attempt(self, delivery: Delivery) -> None:
        body = delivery.body.encode()
        timestamp = str(int(clock.now().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "kernelsvc",
            "X-Kernelsvc-Delivery": delivery.id,
            "X-Kernelsvc-Timestamp": timestamp,
            "X-Kernelsvc-Signature": signature(self._secret, timestamp, body),
        }
        attempts = delivery.attempts + 1
        try:
            await self._poster.post(delivery.url, headers, body)
        except NotTaken as why:
            about = {"delivery_id": delivery.id, "run_id": delivery.run_id, "reason": str(why)}
            if why.for_good or attempts >= self._retry.attempts:
                await self._store.forget(delivery)
                log.warning("delivery_given_up", attempts=attempts, **about)
                return
            pause = self._retry.pause(attempts) * random.uniform(1 - _JITTER, 1 + _JITTER)
            await self._store.put_off(delivery, clock.now() + timedelta(seconds=pause))
            log.info("delivery_put_off", attempts=attempts, pause=round(pause, 1), **about)
        else:
            await self._store.forget(delivery)
            log.info("delivered", delivery_id=delivery.id, run_id=delivery.run_id)

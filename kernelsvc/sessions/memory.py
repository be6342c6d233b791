"""A session's memory while it sleeps: saved by its kernel before, restored by the next one.

Theory of operation. The kernel writes a file into the workspace, where the session's code could
write as well, and a kernel of the same session reads it; the service does neither. What it knows is
the file's token, which is in the session's record together with the number of runs that the memory
is that of: a file is restored only if both are right. Before anything may change the memory (a run
begins, the kernel is replaced by an empty one), the file is deleted: an older memory never comes
back.

A kernel that has ended is replaced by its snapshot, where there is one. One that has restored a
file takes one at once, so what a session woke with outlives its first run. A kernel that has died
between runs is replaced in the next turn that needs one: a run's, a sleep's, or that of the wake
which its death begins. One that hangs or dies while it is to save is replaced, too, and its
snapshot saves.
"""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final

import structlog

from kernelsvc.files.own import MEMORY_FILE
from kernelsvc.kernels.kernel import Kernel
from kernelsvc.kernels.seat import Seat
from kernelsvc.models.memory import KeptMemory, MemoryTold, NotRestored
from kernelsvc.sessions import result
from kernelsvc.sessions.executing import snapshot_bytes, wants_snapshots
from kernelsvc.sessions.going import Going
from kernelsvc.sessions.lasting import Lasting
from kernelsvc.sessions.lodgings import Offer
from kernelsvc.sessions.parts import SessionParts
from kernelsvc.sessions.room import Room
from kernelsvc.sessions.slot import KernelSlot

NOT_PERSISTENT: Final = "the session is not persistent: every run begins with an empty memory"
_ASLEEP: Final = "the session was asleep"
_IS_OLD: Final = "its memory is lost: a run had begun since it was written"
_PATIENCE: Final = 5.0
_LEAST_SECONDS: Final = 0.1
_MOST_TOLD: Final = 10

log = structlog.get_logger()


@dataclass(frozen=True)
class Woken:
    """Which variables a session woke with, and which it did not."""

    restored: tuple[str, ...] = ()
    not_restored: tuple[NotRestored, ...] = ()


class _File(Enum):
    NONE = auto()
    WAITS = auto()
    """It is to be restored."""
    SAME = auto()
    """The kernel holds what is in it."""
    OLD = auto()
    """It is to be deleted."""


class SessionMemory:
    """What became of the memory since the last answer, and what is kept of it during sleep.

    `change` says that it is gone, or that it was brought back and how much of it, until an answer
    has told it. A save must be over at `save_by` (time.monotonic()).

    `absence` says why the memory of a session that does not come from sleep has to be restored.
    What waits is called in the session's turn.
    """

    def __init__(
        self,
        lasting: Lasting,
        parts: SessionParts,
        room: Room,
        slot: KernelSlot,
        absence: str | None,
    ) -> None:
        record = lasting.settings
        self.change: result.Change | None = None
        self._absence = absence or _ASLEEP
        self.save_by = math.inf
        self.woken = Woken()
        self._session_id = record.id
        self._lasting = lasting
        self._sessions_policy = parts.policy
        self._policy = parts.policy.memory
        self._keeps = self._policy.keep and parts.languages.remembers(record.language)
        self._room = room
        self._slot = slot
        self._file = _File.NONE
        self._saving: Kernel | None = None
        self._gives_way = self._is_in_vain = False
        kept = record.memory
        self._kept = kept if kept and kept.run_count == record.run_count else None
        self.fell_asleep(record.run_count)

    def fell_asleep(self, run_count: int) -> None:
        """There is no kernel any more, or none yet."""
        is_kept = self._kept is not None and self._kept.lost is None
        self._file = _File.WAITS if is_kept else _File.NONE
        self.woken = Woken()
        if is_kept:
            self.change = None
        elif self._kept is not None or run_count:
            self.change = _lost((self._kept and self._kept.lost) or _ASLEEP)

    def lose(self, why: str) -> None:
        """The kernel is gone, or is not to be used; what is kept is not to come back."""
        self.change, self.woken = _lost(why), Woken()
        self.outdate()

    async def replace(self, why: str, *, wanted: bool = True, going: Going | None = None) -> None:
        """The kernel has ended: where that is wanted, and can be, put one with its memory there.

        With a run that is `going`, it is that one which has cost it, and is to tell of it.
        """
        are_taken = wants_snapshots(self._lasting.settings, self._sessions_policy)
        replaced = await self._slot.restore(wanted=wanted, are_taken=are_taken)
        change = result.change(why, replaced)
        if isinstance(replaced, result.Restored):
            # It holds what is in the file, if any: a run would have deleted that.
            self.change = change.behind(self.change)
            # At once: what the kernel before could be replaced by there is no more.
            before = self._slot.completed_run
            run = None if going is None else going.line(before, is_replaced=True)
            await self._slot.keep(self.told, run)
        else:
            self.lose(change.detail)

    @asynccontextmanager
    async def offer(self, copies: int, *, reseed: bool) -> AsyncIterator[Offer | None]:
        """Within, the memory for so many copies; None where no kernel has any to be copied."""
        if self._slot.kernel is None or self._file is _File.WAITS:
            yield None
            return
        await self._replace_dead()
        # Whether it comes to be what is to be restored, a next service could not know.
        await self._keep_anew(is_offered=True)
        async with self._slot.offer(copies, reseed=reseed) as offer:
            await self._keep_anew(is_offered=False)
            yield offer

    async def _keep_anew(self, *, is_offered: bool) -> None:
        if (seat := self._slot.seat) is not None and seat.lifeline is not None:
            seat.lifeline.outdate()
        await self._slot.keep(lambda: self.told() | {"is_offered": is_offered})

    async def become_copy(self, offer: Offer, source: str, lost: str | None) -> None:
        """Have a kernel that is a copy of the session `source`'s; raises as `KernelSlot.copy`.

        `lost` says why that has lost what it held before, where no answer of it has told it yet.
        """
        without = await self._slot.copy(offer)
        self._file, self._kept = _File.NONE, None
        self.change = result.of_copy(source, without, lost)
        await self._slot.keep(self.told)

    async def _replace_dead(self) -> None:
        if (returncode := self._slot.returncode) is not None:
            await self.replace(result.why_between_runs(returncode, self._slot.exceeded()))

    def outdate(self) -> None:
        """What is kept is not to come back."""
        if self._file is not _File.NONE:
            self._file = _File.OLD

    @property
    def lost(self) -> str | None:
        """Why the memory is gone, where no answer has told it yet."""
        return self.change.detail if self.change and self.change.memory == "lost" else None

    async def outlook(self) -> result.Change | None:
        """What a run would tell that began now; for one that does not, and leaves it to the next.

        May be called at any time.
        """
        if not self._lasting.settings.persistent:
            return _lost(NOT_PERSISTENT)
        if self._file is not _File.WAITS:
            return self.change
        is_there = await asyncio.to_thread(self._room.has_any, [MEMORY_FILE])
        return (
            result.Change("restored", self._absence)
            if is_there
            else _lost(f"{self._absence}, and {_IS_OLD}")
        )

    def take_news(self) -> result.Change | None:
        """`change`, to be told now."""
        news, self.change = self.change, None
        return news

    async def diverge(self) -> None:
        """A run is about to begin, or a new kernel: what the file holds is the past."""
        if self._file is not _File.NONE:
            self._kept = None
            await self._delete()

    async def _delete(self) -> None:
        self._file = _File.NONE
        await asyncio.to_thread(self._room.forget_memory)

    async def ready(self) -> Kernel:
        """A kernel that runs, with the session's memory; raises as `ensure` does."""
        kernel = await self._ready()
        await self._slot.keep(self.told)
        return kernel

    def told(self) -> dict[str, Any]:
        """What a next service has to know that goes on with the kernel that holds it."""
        return {
            "change": self.change,
            "completed": self._slot.completed_run,
            "is_offered": False,
            "woken": list(self.woken.restored),
            "not_woken": [missing.model_dump() for missing in self.woken.not_restored],
        }

    def take_over(self, told: dict[str, Any], *, is_news: bool, has_file: bool) -> None:
        """Go on with a kernel of an earlier service, by what that has `told`.

        `is_news`: no answer has had it yet. `has_file`: there is one, so no run has begun since.
        """
        self.change = result.Change(*told["change"]) if is_news and told["change"] else None
        missing = [NotRestored(**each) for each in told["not_woken"]]
        self.woken = Woken(tuple(told["woken"]), tuple(missing))
        is_same = self._file is _File.WAITS and has_file
        self._file = _File.SAME if is_same else _File.NONE

    async def _ready(self) -> Kernel:
        await self._replace_dead()
        if self._file is _File.OLD:
            await self.diverge()
        kernel = await self._slot.ensure()
        if self._file is not _File.WAITS or (seat := self._slot.seat) is None:
            return kernel
        if await self._restore(kernel, seat):
            return kernel
        await self.diverge()
        # It may be full of halves, have died of them, or hang.
        await self._slot.drop()
        return await self._slot.ensure()

    async def _restore(self, kernel: Kernel, seat: Seat) -> bool:
        assert self._kept is not None
        token = self._kept.token
        copied = snapshot_bytes(self._lasting.settings, self._sessions_policy)
        told, seconds = await self._ask(kernel, seat, "restore", token, snapshot=copied)
        lost, missing = _problem(kernel, told), told.not_restored if told else ()
        if told is not None and missing and not told.restored:
            lost = f"nothing of it could be restored: {_listed(missing)}"
        if told is None or lost is not None:
            self.lose(f"{self._absence}, and its memory is lost: {lost}")
            log.warning("memory_lost", session_id=self._session_id, seconds=seconds)
            return False
        self._slot.completed(token)
        self._file = _File.SAME
        self.woken = Woken(told.restored, missing)
        why, self._absence = self._absence, _ASLEEP
        but = f"; not restored: {_listed(missing)}" if missing else ""
        self.change = result.Change("restored", f"{why}{but}")
        log.info(
            "memory_restored", session_id=self._session_id, seconds=seconds, missing=len(missing)
        )
        return True

    async def save(self, *, gives_way: bool = False) -> KeptMemory | None:
        """Have the kernel save. What to note in the record, of a copy too; None for nothing.

        With `gives_way` it is in vain once a run has come.
        """
        self._gives_way = gives_way
        record = self._lasting.settings
        if self._slot.kernel is None:
            return self._kept
        await self._replace_dead()
        has_some = record.run_count > 0 or self._file is _File.SAME
        if not self._keeps or not record.persistent:
            self._kept = None
        elif (lost := self.lost) is not None:
            self._kept = KeptMemory("", record.run_count, lost)
        elif not has_some:
            self._kept = None
        elif self._file is not _File.SAME:
            self._kept = await self._save()
        if self._kept is not None and self._kept.lost is None:
            self._file = _File.SAME
        else:
            await self._delete()
        return self._kept

    async def _save(self) -> KeptMemory:
        """Where the kernel hangs or dies over it, its snapshot does it."""
        token = secrets.token_hex(16)
        lost, is_answer = await self._have_saved(token)
        if lost is not None and not is_answer:
            await self.replace(f"its memory was to be saved, and {lost}")
            if self._slot.kernel is not None:
                lost, _ = await self._have_saved(token)
        # A run may have been cancelled meanwhile, and counted.
        run_count = self._lasting.settings.run_count
        return KeptMemory(token, run_count, lost and f"its memory could not be saved: {lost}")

    async def _have_saved(self, token: str) -> tuple[str | None, bool]:
        """Why it was not saved, None where it was; and whether the kernel has answered at all."""
        kernel, seat = self._slot.kernel, self._slot.seat
        if kernel is None or seat is None:
            return "the kernel died over it", False
        self._saving, self._is_in_vain = kernel, False
        try:
            room = min(await asyncio.to_thread(self._room.left), self._policy.most_bytes)
            told, seconds = await self._ask(kernel, seat, "save", token, most_bytes=int(room))
        finally:
            self._saving, self._is_in_vain = None, False
        lost = _problem(kernel, told)
        log.info(
            "memory_saved" if lost is None else "memory_not_saved",
            session_id=self._session_id,
            seconds=seconds,
        )
        return lost, told is not None

    def hurry(self) -> None:
        """A run has come: a save that is going on may be in vain."""
        if self._saving is not None and self._gives_way:
            self._is_in_vain = True
            self._saving.ring()

    def recount(self, run_count: int) -> None:
        """A run has been counted that never began, as the store does: what is kept stays so."""
        if self._kept is not None and self._file in (_File.WAITS, _File.SAME):
            self._kept = replace(self._kept, run_count=run_count)

    async def _ask(
        self, kernel: Kernel, seat: Seat, what: str, token: str, **more: Any
    ) -> tuple[MemoryTold | None, float]:
        """What the kernel says to that, and after how many seconds."""
        began, seconds = time.monotonic(), self._policy.seconds
        if what == "save":
            seconds = min(seconds, self.save_by - began)
            if seconds < _LEAST_SECONDS:
                return MemoryTold(lost="the service was stopped, and there was no time left"), 0.0
        path = str(seat.enclosure.workspace / MEMORY_FILE)
        asked = {"do": what, "path": path, "token": token, "seconds": seconds, **more}
        told = await kernel.remember(asked, seconds + _PATIENCE, lambda: self._is_in_vain)
        return told, round(time.monotonic() - began, 3)


def _lost(why: str) -> result.Change:
    return result.Change("lost", why)


def _problem(kernel: Kernel, told: MemoryTold | None) -> str | None:
    """What kept a kernel from saving or restoring."""
    if told is not None:
        return told.lost
    return "the kernel died over it" if kernel.ended.is_set() else "it took too long"


def _listed(missing: tuple[NotRestored, ...]) -> str:
    said = [f"{one.name} ({one.reason})" for one in missing[:_MOST_TOLD]]
    more = len(missing) - _MOST_TOLD
    return ", ".join(said) + (f" and {more} more" if more > 0 else "")

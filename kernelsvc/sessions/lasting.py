"""What lasts of a session that is awake: its record and data, here and in the store.

A change is made here first: what a run writes at its end is what is here, and the store keeps the
order.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from kernelsvc.errors import SessionNotFound
from kernelsvc.models.session import SessionRecord
from kernelsvc.sessions.data import DataSync
from kernelsvc.store.sessions import SessionStore

Changes = dict[str, Any]


class Lasting:
    """`settings` is the record, but for its data, which is `data`'s to know."""

    def __init__(self, record: SessionRecord, data: DataSync, store: SessionStore) -> None:
        self.settings = record
        self.data = data
        self._store = store

    @property
    def record(self) -> SessionRecord:
        """All of it, as it is now."""
        return replace(self.settings, data=self.data.value)

    def apply(self, changes: Changes) -> Changes:
        """Change fields of the record here; returns what they were."""
        now = self.record
        before = {name: getattr(now, name) for name in changes}
        if "data" in changes:
            self.data.patch(changes["data"])
        others = {name: value for name, value in changes.items() if name != "data"}
        self.settings = replace(self.settings, **others)
        return before

    async def patch(self, changes: Changes, take_over: Callable[[], None]) -> None:
        """Change fields here and in the store, or in neither; `take_over` is called behind each.

        Raises SessionNotFound where it is in the store no more.
        """
        before = self.apply(changes)
        take_over()
        try:
            if not await self._store.change(self.settings.id, changes):
                raise SessionNotFound(self.settings.id)
        except BaseException:
            self.apply(before)
            take_over()
            raise

    async def change(self, changes: Changes) -> None:
        """Change fields here and in the store, unless the session has gone there."""
        self.apply(changes)
        await self._store.change(self.settings.id, changes)

    def count_run(self, last_run_at: datetime | None) -> int:
        """A run has ended, which the store learns with the run; returns its number."""
        number = self.settings.run_count + 1
        self.settings = replace(self.settings, run_count=number, last_run_at=last_run_at)
        return number

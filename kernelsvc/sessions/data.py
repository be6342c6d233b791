"""A session's data and its file, kept in step: who changed what last.

Before a run the file holds the data. A change by PATCH is written to it before the next run. A
change by the code, which may also come from a thread after its run, is taken over when it is seen:
at the end of a run, and before the next. Where both changed it, the code wins, and the run says so.
What the file holds when the service has only just come to know of it is no change by the code: the
session's record is newer, which a PATCH may have changed since. Nor is it where the file looks
otherwise and holds the same: the workspace moves into the sandbox of a kernel that has waited.
"""

import asyncio
from pathlib import Path
from typing import Any

from kernelsvc.files.directory import Owner
from kernelsvc.files.session_data import DataFile, Signature

Data = dict[str, Any]


class DataSync:
    """`value` is the session's data; `put` and `take` are called around each run."""

    def __init__(
        self, value: Data, workspace: Path, max_bytes: int, owner: Owner | None = None
    ) -> None:
        self.value = value
        self._file = DataFile(workspace, max_bytes, owner)
        self._patched = False
        self._file_is_stale = True
        self._file_is_known = False
        self._held: Data | None = None

    @property
    def seen(self) -> Signature | None:
        """What the file was like when it was last seen."""
        return self._file.seen

    def resume(self, seen: Signature | None) -> None:
        """A run goes on that began under an earlier service; the file was like that then."""
        self._file.seen = seen
        self._file_is_known = True

    def patch(self, value: Data) -> None:
        """The caller replaces the data."""
        self.value = value
        self._patched = self._file_is_stale = True

    def begin_afresh(self) -> None:
        """The workspace was emptied: the file is to be written before the next run."""
        self._file_is_stale = True

    async def put(self) -> None:
        """Make the file hold the data, or take over what a thread of the code has left in it."""
        stale, self._file_is_stale = self._file_is_stale, False
        self._patched, self._file_is_known = False, True
        if not stale and self._file.is_as_seen():
            return
        value = await asyncio.to_thread(self._put, self.value, stale)
        self._held = value
        if not self._patched:
            self.value = value

    def _put(self, value: Data, stale: bool) -> Data:
        found = None if stale else self._file.read_if_changed()
        if found is not None and found.data is not None:
            return found.data
        if stale or found is not None or self._file.is_missing():
            self._file.write(value)
        return value

    async def take(self) -> str | None:
        """Take over what the code has changed; returns what there is to say about it."""
        if not self._file_is_known or self._file.is_as_seen():
            return None
        found = await asyncio.to_thread(self._file.read_if_changed)
        if found is None:
            return None
        if found.data is None:
            self._file_is_stale = True
            return found.problem
        if found.data == self._held:
            return None
        self._held = found.data
        patched, self._patched = self._patched, False
        self._file_is_stale = False
        self.value = found.data
        if patched:
            return "the code's .session_data.json replaced the data patched meanwhile"
        return None

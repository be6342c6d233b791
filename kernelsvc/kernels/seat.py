"""A seat: where a session's kernels run, one after the other."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernelsvc.kernels.annex import Annex
from kernelsvc.kernels.host import KernelHost
from kernelsvc.kernels.hosted import HostedKernel
from kernelsvc.kernels.keeping import Lifeline
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.egress_process import Egress
from kernelsvc.sandbox.isolation import Enclosure
from kernelsvc.sandbox.open_files import unnamed_bytes


@dataclass
class Seat:
    """A host and its directory; made by a `Launcher`, freed by `close`.

    The kernel of a session that is a copy (`lodge`) is in the sandbox of another's seat, its
    `landlord`, in an annex. That one's sandbox stands until its last lodger has left, however soon
    its own session ends. What `latest` ended as, a snapshot may be of.
    """

    host: KernelHost
    place: Place
    enclosure: Enclosure
    environment: Mapping[str, str]
    limits: Limits
    internet: bool
    egress: Egress | None
    latest: HostedKernel | None = None
    lifeline: Lifeline | None = None
    annex: Annex | None = None
    landlord: "Seat | None" = None
    _lodgers: int = 0
    _is_left: bool = field(default=False)

    def lodge(self, landlord: "Seat", annex: Annex) -> None:
        """The next kernel is a copy in that seat's sandbox, with this one's annex there."""
        self.landlord = landlord.landlord or landlord
        self.landlord._lodgers += 1
        self.annex = annex

    def has_moved(self, workspace: Path) -> None:
        """The directory that is its workspace is at this path now."""
        self.place = replace(self.place, workspace=workspace)

    @property
    def inside(self) -> KernelHost:
        """The host of the kernels that run here."""
        return (self.landlord or self).host

    @property
    def is_usable(self) -> bool:
        """Whether a kernel of this seat can live: what it is in is there."""
        way_out = (self.landlord or self).egress
        return not self.inside.closed.is_set() and not (way_out and way_out.ended.is_set())

    @property
    def is_for_copy(self) -> bool:
        """Whether nothing can run here but a copy, and what is restored of it."""
        return self.landlord is not None

    def unnamed_bytes(self) -> int:
        """What the code holds of deleted files on the workspace's file system; blocks."""
        return unnamed_bytes(self.inside.pid, self.place.workspace)

    async def connect(self, port: int) -> socket.socket:
        """A connection to what the session's code has listen on this port; raises OSError.

        That is ConnectionRefusedError where nothing does. Who calls bounds the time.
        """
        return await self.inside.connect(port)

    def lifelines(self) -> dict[str, int]:
        """The descriptors by which it can be kept beyond this service; raises OSError."""
        parts = (self.host, self.egress, self.annex)
        return {name: fd for part in parts if part for name, fd in part.lifelines().items()}

    def give_up(self) -> None:
        """End what is being started here, which may never come to be ready; lodgers live on."""
        if self.landlord is None and self._lodgers == 0:
            self.host.kill()
        elif self.latest is not None:
            self.latest.forget()

    async def let_go(self) -> None:
        """Its session need not outlive the service there any more; lodgers are to."""
        if self._lodgers and self.lifeline is not None:
            with contextlib.suppress(OSError):
                self.lifeline.note_left()
                return
        lifeline, self.lifeline = self.lifeline, None
        if lifeline is not None:
            await lifeline.let_go()

    async def close(self) -> None:
        """End its kernel and what was made for it, but what lodgers are in."""
        await self.let_go()
        if self.latest is not None:
            self.latest.forget()
        self._is_left = True
        if self.landlord is not None:
            await self._leave(self.landlord)
        if self._lodgers == 0:
            await self._end()

    async def _leave(self, landlord: "Seat") -> None:
        assert self.annex is not None
        self.annex.close()
        landlord._lodgers -= 1
        if landlord._is_left and landlord._lodgers == 0:
            await landlord._end()

    async def _end(self) -> None:
        await self.let_go()
        await self.host.close()
        if self.egress is not None:
            await self.egress.close()
        await asyncio.to_thread(self._clear_away)

    def _clear_away(self) -> None:
        self.enclosure.close()
        shutil.rmtree(self.place.runtime, ignore_errors=True)

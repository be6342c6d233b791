"""What a workspace may hold: counted before an upload and while it comes.

The code writes to its workspace without asking, so what is there is measured whenever room is asked
for. What uploads will add is reserved before it is written: several at once cannot pass the limit
together. The methods block and are called in a thread.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from kernelsvc.errors import WorkspaceFull


@dataclass
class Reservation:
    """Room for one upload, in bytes. `replaces` is what goes when it is put in place."""

    size: int = 0
    replaces: int = 0


class Space:
    """One workspace's room. `measure` says what is there now; `limit` is what may be, in bytes.

    `lock` is held where room is given and where uploads become files, so that none is counted twice
    or not at all. `is_gone` says that the session is being deleted.
    """

    def __init__(self, measure: Callable[[], int], limit: int) -> None:
        self.limit = limit
        self.lock = threading.Lock()
        self.is_gone = False
        self._measure = measure
        self._reservations: list[Reservation] = []
        self._changing = threading.Lock()

    @property
    def is_unused(self) -> bool:
        """Whether nothing is reserved."""
        return not self._reservations

    def begin(self, reservation: Reservation) -> None:
        """Count this reservation from now on."""
        with self._changing:
            self._reservations.append(reservation)

    def end(self, reservation: Reservation) -> None:
        """Give back what was reserved; again is fine."""
        with self._changing:
            left = [other for other in self._reservations if other is not reservation]
            self._reservations = left

    def close(self) -> None:
        """Let no upload become a file any more; when this returns, none is on its way to it."""
        self.is_gone = True
        with self.lock:
            pass

    def extend(self, reservation: Reservation, needed: int, wished: int) -> None:
        """Make the reservation `needed` bytes large, `wished` where there is room.

        Raises WorkspaceFull where there is no room, and leaves it as it was.
        """
        with self.lock:
            used = self._measure()
            used += sum(other.size for other in self._reservations if other is not reservation)
            room = self.limit - used + reservation.replaces
            if needed > room:
                raise WorkspaceFull(self.limit, used)
            reservation.size = max(needed, min(wished, room))

"""What callers may have at most, counted in memory and reserved before anything is awaited.

A reservation is made where nothing can come between the look and the taking, so that a burst of
requests cannot pass together; what then comes to nothing gives its reservation back. Sessions are
counted by owner (they outlive the key that made them), runs by key.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from kernelsvc.errors import QuotaExceeded, TooManySessions
from kernelsvc.models.caller import Caller

_WINDOW_SECONDS = 60.0
# When a session is deleted or a run ends, nobody knows.
_TRY_AGAIN_SECONDS = 1


class RunReservation:
    """A run that may be made; ended by `release`, which `cancel` makes undone as well."""

    def __init__(self, rate: deque[float], began: float, release: Callable[[], None]) -> None:
        self._rate = rate
        self._began = began
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """The run has ended; a second time, nothing."""
        if self._release is not None:
            self._release()
            self._release = None

    def cancel(self) -> None:
        """There was no run: it counts neither as going on nor as begun."""
        if self._release is not None and self._began in self._rate:
            self._rate.remove(self._began)
        self.release()


class QuotaBook:
    """Counts sessions and runs; raises QuotaExceeded where a quota is used up.

    `monotonic` is a clock in seconds; `max_sessions` holds for all owners together.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        max_sessions: int | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._max_sessions = max_sessions
        self._sessions: Counter[str] = Counter()
        self._parallel: Counter[str] = Counter()
        self._begun: dict[str, deque[float]] = {}

    def open(self, sessions: Mapping[str, int]) -> None:
        """Begin with the sessions that owners have."""
        self._sessions = Counter(sessions)

    def add_session(self, caller: Caller) -> None:
        """Count a session that is going to be made."""
        most = caller.quotas.max_sessions
        if most is not None and self._sessions[caller.owner] >= most:
            raise QuotaExceeded("max_sessions", most, _TRY_AGAIN_SECONDS)
        if self._max_sessions is not None and self._sessions.total() >= self._max_sessions:
            raise TooManySessions(self._max_sessions)
        self._sessions[caller.owner] += 1

    def drop_session(self, owner: str) -> None:
        """Count a session no longer: it was deleted, or not made after all."""
        self._sessions[owner] -= 1
        if self._sessions[owner] <= 0:
            del self._sessions[owner]

    def add_run(self, caller: Caller) -> RunReservation:
        """Count a run that is going to be queued."""
        key, quotas = caller.key_id or "", caller.quotas
        most = quotas.max_parallel_runs
        if most is not None and self._parallel[key] >= most:
            raise QuotaExceeded("max_parallel_runs", most, _TRY_AGAIN_SECONDS)
        now = self._monotonic()
        begun = self._begun_lately(key, now)
        per_minute = quotas.max_runs_per_minute
        if per_minute is not None:
            if len(begun) >= per_minute:
                # There is room when so many have left that one less than the quota is there.
                leaves = begun[len(begun) - per_minute] + _WINDOW_SECONDS - now
                raise QuotaExceeded("max_runs_per_minute", per_minute, max(1, math.ceil(leaves)))
            begun.append(now)
        self._parallel[key] += 1
        return RunReservation(begun, now, lambda: self._run_ended(key))

    def _begun_lately(self, key: str, now: float) -> deque[float]:
        """When the key's runs of the last minute began; quotas that were never set keep nothing."""
        begun = self._begun.setdefault(key, deque())
        while begun and begun[0] <= now - _WINDOW_SECONDS:
            begun.popleft()
        return begun

    def _run_ended(self, key: str) -> None:
        self._parallel[key] -= 1
        if self._parallel[key] <= 0:
            del self._parallel[key]

"""When a session is due to sleep."""

import math
from dataclasses import dataclass

import pytest

from kernelsvc.sessions.culler import due_at


@dataclass
class Awake:
    is_busy: bool = False
    sleep_after: float = 300.0
    active_at: float = 1000.0


@pytest.mark.parametrize(
    ("session", "moment"),
    [
        (Awake(), 1300),
        (Awake(sleep_after=0.5), 1000.5),
        (Awake(active_at=2000), 2300),
        (Awake(sleep_after=math.inf), math.inf),
        (Awake(is_busy=True), math.inf),
        (Awake(is_busy=True, sleep_after=0.001), math.inf),
        (Awake(sleep_after=1e308, active_at=1e308), math.inf),
    ],
)
def test_a_session_is_due_so_long_after_its_last_activity_and_never_while_busy(session, moment):
    assert due_at(session) == moment

"""How many kernels wait: a pure rule."""

from collections import deque

import pytest

from kernelsvc.kernels.pool import DEMAND_SECONDS, wanted

NOW = 1000.0


@pytest.mark.parametrize(
    ("ages", "least", "most", "expected"),
    [
        ([], 2, 8, 2),
        ([], 0, 8, 0),
        ([1, 2, 3], 0, 8, 3),
        ([1, 2, 3], 4, 8, 4),
        ([1] * 50, 1, 8, 8),
        ([DEMAND_SECONDS, 1], 0, 8, 1),
        ([DEMAND_SECONDS + 1, DEMAND_SECONDS - 1], 0, 8, 1),
        ([1], 0, 0, 0),
    ],
)
def test_as_many_are_wanted_as_were_asked_for_within_the_last_minute(ages, least, most, expected):
    claims = deque(NOW - age for age in sorted(ages, reverse=True))
    assert wanted(claims, NOW, least, most) == expected
    assert all(claim > NOW - DEMAND_SECONDS for claim in claims)

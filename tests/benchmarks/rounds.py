"""Measuring in turns."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Measure = Callable[[], Awaitable[float]]


async def seconds_of(act: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> float:
    """How long it takes, called with these."""
    began = time.perf_counter()
    await act(*args, **options)
    return time.perf_counter() - began


async def interleaved(
    rounds: int, subjects: Mapping[str, Measure], warm_up: int = 1, block: int = 1
) -> dict[str, list[float]]:
    """What each subject measured in each round.

    In a round each has its turn, so that what else the machine does falls on all alike. Each round
    begins one further on, so that none is always the one behind the same other. The `warm_up`
    rounds before do not count. A turn measures `block` times, one right behind the other.
    """
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            values = [await subjects[name]() for _ in range(block)]
            if number >= 0:
                samples[name] += values
    return samples

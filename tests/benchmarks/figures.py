"""From samples to the rows of the table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Samples = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Row:
    """A line of the table; None where there is nothing to say.

    `ratio` is ours to this one: the median over the rounds of ours divided by this one's in the
    same round, so that a slow moment of the machine, which both have, cancels out.
    """

    part: str
    subject: str
    unit: str
    count: int
    p50: float
    p95: float | None = None
    p99: float | None = None
    ratio: float | None = None


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of a hundred lie, between neighbours in proportion."""
    if not values:
        raise ValueError("there are no values")
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent / 100
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def quotient(mine: float, other: float) -> float:
    """Mine to the other; 1 where both are 0, infinite where only the other is."""
    if mine == other:
        return 1.0
    return mine / other if other else math.inf


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of ours to theirs; raises ValueError unless both have them all."""
    return statistics.median(
        quotient(mine, other) for mine, other in zip(ours, theirs, strict=True)
    )


def rows(
    part: str,
    samples: Samples,
    ours: str,
    unit: str = "ms",
    scale: float = 1e3,
    tails: bool = False,
) -> list[Row]:
    """A row for each subject, in the order given; `ours` names the one that ratios are of.

    The samples are multiplied by `scale` to be in `unit`. `tails` asks for p95 and p99, too.
    """
    return [
        Row(
            part,
            subject,
            unit,
            len(values),
            percentile(values, 50) * scale,
            percentile(values, 95) * scale if tails else None,
            percentile(values, 99) * scale if tails else None,
            None if subject == ours else median_ratio(samples[ours], values),
        )
        for subject, values in samples.items()
    ]


def single(part: str, subject: str, value: float, unit: str, than: float | None = None) -> Row:
    """A row for what is measured once; `than` is ours, where this one is to be compared with it."""
    ratio = None if than is None else quotient(than, value)
    return Row(part, subject, unit, 1, value, ratio=ratio)

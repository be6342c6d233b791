"""The table as text."""

from collections.abc import Sequence

from tests.benchmarks.figures import Row

_TITLES = ("part", "what", "unit", "n", "p50", "p95", "p99", "ours / this")
_TEXTS = 3  # the columns from the left that are text


def number(value: float | None) -> str:
    """Three digits that count, and no exponent; nothing for None."""
    if value is None:
        return ""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def render(rows: Sequence[Row]) -> str:
    """The rows below their titles, in columns; a part is named in its first row only."""
    lines = [_TITLES, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_TITLES))]
    text = []
    part = ""
    for line in lines:
        shown = [
            cell.ljust(width) if column < _TEXTS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        if line[0] == part:
            shown[0] = " " * widths[0]
        part = line[0]
        text.append("  ".join(shown).rstrip())
    text.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    figures = (number(value) for value in (row.p50, row.p95, row.p99, row.ratio))
    return (row.part, row.subject, row.unit, str(row.count), *figures)

"""What the benchmarks' figures and table make of samples, and how turns are taken."""

import asyncio
import math
import subprocess
import sys

import pytest

from tests.benchmarks.contestants.websocket import packed, unpacked
from tests.benchmarks.figures import Row, median_ratio, percentile, rows, single
from tests.benchmarks.plan import Plan
from tests.benchmarks.rounds import interleaved
from tests.benchmarks.table import number, render


def test_percentiles_lie_between_neighbours_in_proportion():
    values = [40.0, 10.0, 30.0, 20.0, 50.0]
    assert percentile(values, 0) == 10
    assert percentile(values, 50) == 30
    assert percentile(values, 95) == pytest.approx(48)
    assert percentile(values, 100) == 50
    assert percentile([7.0], 99) == 7


def test_a_percentile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_slow_round_that_both_had_does_not_change_the_ratio():
    theirs = [2.0, 2.0, 200.0, 2.0]
    assert median_ratio([value / 2 for value in theirs], theirs) == 0.5


def test_ratios_pair_rounds_and_are_not_those_of_medians():
    ours, theirs = [1.0, 5.0, 6.0], [10.0, 1.0, 2.0]
    assert median_ratio(ours, theirs) == 3
    assert percentile(ours, 50) / percentile(theirs, 50) == 2.5


def test_rounds_that_one_of_them_does_not_have_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1.0, 2.0], [1.0])


def test_what_took_nothing_is_infinitely_less():
    assert median_ratio([1.0], [0.0]) == math.inf
    assert median_ratio([0.0], [0.0]) == 1


def test_rows_are_scaled_and_ours_has_no_ratio():
    ours, theirs = rows("p", {"us": [0.001, 0.003], "them": [0.004, 0.004]}, "us", tails=True)
    assert (ours.p50, ours.count, ours.ratio) == (2.0, 2, None)
    assert (theirs.p50, theirs.p95, theirs.p99, theirs.ratio) == (4.0, 4.0, 4.0, 0.5)


def test_a_single_value_is_compared_with_ours():
    assert single("p", "them", 4.0, "MiB", than=1.0).ratio == 0.25
    assert single("p", "us", 4.0, "MiB").ratio is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.123, "0.12"), (9.876, "9.88"), (12.34, "12.3"), (1234.5, "1234")],
)
def test_numbers_have_the_digits_that_count(value, text):
    assert number(value) == text


def test_the_table_lines_up_and_names_a_part_once():
    table = render(
        [
            Row("first", "kernelsvc", "ms", 500, 5.5, 6.0, 7.0),
            Row("first", "a peer", "ms", 500, 11.0, 12.0, 130.0, 0.5),
            Row("next", "kernelsvc", "MiB", 1, 3.0),
        ]
    )
    assert table.splitlines() == [
        "part   what       unit    n   p50   p95   p99  ours / this",
        "-" * 58,
        "first  kernelsvc  ms    500  5.50  6.00  7.00",
        "       a peer     ms    500  11.0  12.0   130         0.50",
        "next   kernelsvc  MiB     1  3.00",
    ]


def test_everyone_has_a_turn_in_each_round_and_the_warm_up_does_not_count():
    turns = []

    def taking(name):
        async def take() -> float:
            turns.append(name)
            return float(len(turns))

        return take

    samples = asyncio.run(interleaved(2, {"a": taking("a"), "b": taking("b")}, warm_up=1, block=2))
    assert "".join(turns) == "bbaaaabbbbaa"
    assert samples == {"a": [5, 6, 11, 12], "b": [7, 8, 9, 10]}


def test_what_the_command_line_says_goes_before_a_parts_own_rounds():
    assert Plan().rounds_of(20, 3) == 20
    assert Plan(quick=True).rounds_of(20, 3) == 3
    assert Plan(rounds=7, quick=True).rounds_of(20, 3) == 7
    assert Plan(rounds=7).amount(50, 8) == 50


def test_messages_for_a_websocket_come_apart_as_they_were_put_together():
    channel, parts = unpacked(packed("shell", {"msg_id": "é"}, {}, {}, {"code": "1"}))
    assert channel == "shell"
    assert parts == [b'{"msg_id": "\\u00e9"}', b"{}", b"{}", b'{"code": "1"}']


def test_a_part_that_is_not_there_is_refused_by_name():
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "create,nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no such part: 'nothing'" in done.stderr

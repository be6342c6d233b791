"""Text as a terminal shows it: carriage returns and backspaces, however the text is cut up."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelsvc.outputs.terminal import TerminalText

texts = st.text(st.sampled_from("ab é💥\r\b\n\t"), max_size=30)


def drawn(*pieces):
    shown = TerminalText()
    for piece in pieces:
        shown.write(piece)
    return shown.text()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("", ""),
        ("plain\nlines\n", "plain\nlines\n"),
        ("10%\r20%\r30%", "30%"),
        ("100%\r5%", "5%0%"),
        ("a\rbc\rd\n", "dc\n"),
        ("one\ntwo\rTWO\nthree", "one\nTWO\nthree"),
        ("abc\b\bX", "aXc"),
        ("abc\b", "abc"),
        ("\b\b\bab", "ab"),
        ("a\n\bb", "a\nb"),
        ("dos\r\nline\r\n", "dos\r\nline\r\n"),
        ("\r\n", "\r\n"),
        ("\r\n\r\n", "\r\n\r\n"),
        ("\rab", "ab"),
        ("ab\r", "ab"),
        ("é\rx", "x"),
        ("💥💥\rx", "x💥"),
    ],
)
def test_text_is_shown_as_a_terminal_would(written, shown):
    assert drawn(written) == shown
    assert drawn(*written) == shown


def test_backspaces_up_to_the_start_of_a_line_are_no_carriage_return():
    assert drawn("ab\b\b\n") == "ab\n"


@settings(deadline=None, max_examples=500)
@given(texts, st.lists(st.integers(0, 30), max_size=6))
def test_however_the_text_is_cut_up_it_shows_the_same(text, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert "".join(pieces) == text
    assert drawn(*pieces) == drawn(text)


@settings(deadline=None, max_examples=500)
@given(st.lists(texts, max_size=8))
def test_the_size_is_the_bytes_that_are_shown(pieces):
    shown = TerminalText()
    for piece in pieces:
        shown.write(piece)
        assert shown.size == len(shown.text().encode())


@settings(deadline=None, max_examples=500)
@given(texts, st.integers(0, 60), texts)
def test_what_is_cut_from_the_front_is_counted_and_the_rest_stays(text, count, more):
    shown = TerminalText()
    shown.write(text)
    before = shown.text().encode()
    cut = shown.cut_front(count)
    assert shown.text().encode() == before[cut:]
    # Up to three bytes more than asked for, where a character would be torn.
    assert min(count, len(before)) <= cut <= min(count + 3, len(before))
    shown.write(more)
    assert shown.size == len(shown.text().encode())


def test_a_progress_bar_of_a_million_steps_stays_one_line():
    shown = TerminalText()
    for step in range(100_000):
        shown.write(f"\r{step:6}")
    assert shown.text() == " 99999"
    assert shown.size == 6

"""A run's outputs as a notebook would show them, and never more than the bound."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelsvc.models.event import (
    ClearOutput,
    Display,
    Idle,
    Raised,
    Result,
    Started,
    Text,
    UpdateDisplay,
)
from kernelsvc.outputs.collector import OutputCollector

PLENTY = 1 << 20


def collect(*events, most=PLENTY):
    collector = OutputCollector(most)
    for event in events:
        collector.add(event)
    return collector.collected()


def out(text):
    return Text("stdout", text)


def err(text):
    return Text("stderr", text)


def display(text, display_id=None):
    return Display({"text/plain": text}, {}, display_id)


def update(text, display_id):
    return UpdateDisplay({"text/plain": text}, {}, display_id)


def shown(collected):
    """Each output in short: its text, or its text/plain."""
    return [
        output.text if output.output_type == "stream" else output.data["text/plain"]
        for output in collected.outputs
    ]


# ---- order


def test_nothing_gives_nothing():
    collected = collect()
    assert collected.outputs == []
    assert (collected.stdout, collected.stderr, collected.text) == ("", "", None)
    assert (collected.error, collected.cut_bytes) == (None, 0)


def test_pieces_of_one_stream_become_one_output():
    collected = collect(*(out(str(number)) for number in range(100)))
    assert len(collected.outputs) == 1
    assert collected.stdout == "".join(map(str, range(100)))


def test_streams_and_displays_keep_their_order():
    collected = collect(out("1"), err("2"), out("3"), display("4"), out("5"), out("6"))
    assert shown(collected) == ["1", "2", "3", "4", "56"]
    assert (collected.stdout, collected.stderr) == ("1356", "2")


def test_the_last_result_is_the_text():
    collected = collect(
        Result({"text/plain": "1"}, {}, 7), display("2"), Result({"image/png": "x"}, {}, 7)
    )
    assert collected.text == "1"
    assert collected.outputs[0].execution_count == 7


def test_an_error_is_kept_whole_and_its_traceback_ends_stderr():
    collected = collect(err("before\n"), Raised("E", "why", ("line 1", "line 2")))
    assert collected.stderr == "before\nline 1\nline 2\n"
    assert collected.error == Raised("E", "why", ("line 1", "line 2"))
    assert collected.outputs[-1].traceback == ["line 1", "line 2"]


def test_started_and_idle_are_no_output():
    assert collect(Started(), Idle()).outputs == []


# ---- clear and update


def test_clear_output_forgets_everything_at_once():
    assert shown(collect(out("1"), display("2"), ClearOutput(wait=False), out("3"))) == ["3"]
    assert collect(out("1"), ClearOutput(wait=False)).outputs == []


def test_clear_with_wait_happens_only_when_something_comes():
    assert shown(collect(out("1"), ClearOutput(wait=True))) == ["1"]
    assert shown(collect(out("1"), ClearOutput(wait=True), out("2"))) == ["2"]
    assert shown(collect(out("1"), ClearOutput(wait=True), display("2"), out("3"))) == ["2", "3"]


def test_a_new_stream_begins_after_a_clear():
    collected = collect(out("abc"), ClearOutput(wait=False), out("\rX"))
    assert collected.stdout == "X"


def test_an_update_changes_every_display_of_that_id_in_place():
    collected = collect(
        display("a", "x"), out("-"), display("b", "x"), display("c", "y"), update("new", "x")
    )
    assert shown(collected) == ["new", "-", "new", "c"]


def test_an_update_keeps_the_kind_of_output():
    collected = collect(Result({"text/plain": "1"}, {}, 3, "x"), update("2", "x"))
    assert collected.outputs[0].output_type == "execute_result"
    assert collected.outputs[0].execution_count == 3
    assert collected.text == "2"


def test_an_update_of_what_is_not_there_does_nothing():
    assert collect(update("1", "x")).outputs == []
    collected = collect(display("1", "x"), ClearOutput(wait=False), update("2", "x"))
    assert collected.outputs == []


def test_an_update_does_not_trigger_a_clear_that_waits():
    collected = collect(display("1", "x"), ClearOutput(wait=True), update("2", "x"))
    assert shown(collected) == ["2"]


# ---- the bound


def kept(collected):
    """Bytes of output that were kept, without the line that tells of the cut."""
    total = 0
    for output in collected.outputs:
        if output.output_type == "stream":
            total += len(output.text.encode())
        else:
            total += sum(len(str(value).encode()) for value in output.data.values())
    note = f"\n... {collected.cut_bytes} bytes of output cut here ...\n"
    return total - (len(note) if collected.cut_bytes else 0)


def test_output_up_to_the_bound_is_whole():
    collected = collect(out("a" * 500), out("b" * 500), most=1000)
    assert collected.stdout == "a" * 500 + "b" * 500
    assert collected.cut_bytes == 0


def test_one_byte_more_is_cut_and_counted():
    collected = collect(out("a" * 500), out("b" * 501), most=1000)
    assert collected.cut_bytes == 1
    assert collected.stdout == "a" * 500 + "b" * 500
    assert "1 bytes of output cut here" in collected.stderr


def test_head_and_tail_are_kept_and_the_cut_stands_between():
    collected = collect(*(out(f"{number:04}\n") for number in range(10_000)), most=1000)
    assert collected.stdout.startswith("0000\n0001\n")
    assert collected.stdout.endswith("9998\n9999\n")
    assert kept(collected) + collected.cut_bytes == 50_000
    assert kept(collected) <= 1000
    texts = [output.text for output in collected.outputs]
    assert [f"{collected.cut_bytes} bytes" in text for text in texts] == [False, True, False]


def test_one_huge_piece_is_cut_like_many_small_ones():
    text = "".join(f"{number:04}\n" for number in range(10_000))
    whole = collect(out(text), most=1000)
    pieces = collect(*(out(line) for line in text.splitlines(keepends=True)), most=1000)
    assert (whole.stdout, whole.cut_bytes) == (pieces.stdout, pieces.cut_bytes)


def test_an_error_behind_a_flood_is_kept():
    flood = [out("x" * 100) for _ in range(1000)]
    collected = collect(*flood, Raised("E", "why", ("the traceback",)), most=1000)
    assert collected.error is not None
    assert collected.stderr.endswith("the traceback\n")


def test_an_error_as_large_as_the_bound_is_still_told():
    collected = collect(out("x"), Raised("E", "y" * 5000, ("z" * 5000,)), most=1000)
    assert collected.error is not None
    assert collected.error.ename == "E"
    assert collected.error.evalue.startswith("yyy")
    assert "zzz" in collected.stderr
    assert kept_of_error(collected.error) <= 1000


def kept_of_error(error):
    return len(error.ename) + len(error.evalue) + sum(map(len, error.traceback))


def test_a_display_larger_than_the_bound_is_counted_and_what_surrounds_it_is_kept():
    collected = collect(out("before"), display("x" * 5000), out("after"), most=1000)
    assert (collected.stdout, collected.cut_bytes) == ("beforeafter", 5000)
    assert [output.output_type for output in collected.outputs] == ["stream"] * 3


def test_displays_are_kept_whole_or_not_at_all():
    collected = collect(*(display(f"{number:03}" * 33) for number in range(100)), most=1000)
    assert kept(collected) <= 1000
    assert all(len(text) == 99 for text in shown(collected) if "cut" not in text)
    assert shown(collected)[0] == "000" * 33
    assert shown(collected)[-1] == "099" * 33


@pytest.mark.parametrize("room", ["head", "tail"])
def test_an_update_cannot_grow_a_display_beyond_the_bound(room):
    before = [] if room == "head" else [out("x" * 600)]
    collected = collect(
        *before, display("small", "i"), *(update("y" * 100_000, "i") for _ in range(3)), most=1000
    )
    assert kept(collected) <= 1000


def test_an_update_of_a_display_that_was_cut_does_nothing():
    collected = collect(
        out("h" * 500), display("x" * 300, "i"), out("t" * 5000), update("new", "i"), most=1000
    )
    assert "new" not in shown(collected)
    assert kept(collected) <= 1000


def test_a_progress_bar_longer_than_the_bound_stays_one_line_and_what_follows_is_behind_it():
    bar = "".join(f"\r{step:9}" for step in range(1000))
    for pieces in ([bar], bar.split("\r")):
        collected = collect(*(out("\r" + piece) for piece in pieces), out("|end"), most=1000)
        assert collected.stdout == "      999|end"
        assert collected.cut_bytes == 0


@pytest.mark.parametrize("character", ["é", "世", "💥"])
def test_the_bound_is_in_bytes_whatever_the_script(character):
    size = len(character.encode())
    collected = collect(*(out(character * 100) for _ in range(1000)), most=1000)
    assert kept(collected) + collected.cut_bytes == 100_000 * size
    assert kept(collected) <= 1000
    assert set(collected.stdout) == {character}


events = st.one_of(
    st.builds(Text, st.sampled_from(["stdout", "stderr"]), st.text("aé💥\r\b\n", max_size=40)),
    st.builds(display, st.text("ab", max_size=40), st.sampled_from([None, "x", "y"])),
    st.builds(update, st.text("ab", max_size=200), st.sampled_from(["x", "y"])),
    st.builds(lambda text: Raised("E", text, (text,)), st.text("ab", max_size=40)),
    st.builds(ClearOutput, st.booleans()),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(events, max_size=30), st.integers(10, 200))
def test_whatever_comes_is_collected_and_can_be_collected_again(sequence, most):
    collector = OutputCollector(most)
    for event in sequence:
        collector.add(event)
        collector.collected()
    assert collector.collected() == collector.collected()


@settings(deadline=None, max_examples=300)
@given(st.lists(events, max_size=30))
def test_looking_in_between_changes_nothing(sequence):
    looked, unseen = OutputCollector(100), OutputCollector(100)
    for event in sequence:
        looked.add(event)
        looked.collected()
        unseen.add(event)
    assert looked.collected().stdout[-20:] == unseen.collected().stdout[-20:]


# ---- memory


def test_a_flood_of_text_costs_no_more_than_the_bound():
    assert growth(lambda _: out("x" * 1000), 20_000) < 1_000_000


def test_a_flood_of_empty_displays_costs_no_more_than_the_bound():
    assert growth(lambda _: Display({}, {}), 20_000) < 1_000_000


def test_a_flood_of_display_metadata_costs_no_more_than_the_bound():
    assert growth(lambda i: Display({"a": "b"}, {"x": f"{i}" * 200}), 10_000) < 1_000_000


def test_a_flood_of_displays_with_ids_costs_no_more_than_the_bound():
    assert growth(lambda i: display(f"{i:05}" * 200, f"id {i}"), 10_000) < 1_000_000


def test_a_flood_of_alternating_streams_costs_no_more_than_the_bound():
    assert growth(lambda i: out("x") if i % 2 else err("y"), 100_000, most=100_000) < 2_000_000


def growth(make, count, most=10_000):
    """Bytes that a collector holds after so many events; the events themselves not counted."""
    collector = OutputCollector(most)
    tracemalloc.start()
    try:
        for number in range(count):
            collector.add(make(number))
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

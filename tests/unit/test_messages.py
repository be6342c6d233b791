"""Jupyter messages to events: what the protocol says, and no exception for anything else."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jupyter_client.session import DELIM, Session

from kernelsvc.kernel_host.wire import METADATA_KEY
from kernelsvc.kernels import messages
from kernelsvc.models.event import (
    ClearOutput,
    Display,
    Idle,
    Latest,
    Raised,
    Replied,
    Result,
    Started,
    Text,
    UpdateDisplay,
)
from kernelsvc.models.memory import MemoryTold, NotRestored


def message(kind, **content):
    return {"msg_type": kind, "content": content}


def told_of_memory(**memory):
    idle = message("status", execution_state="idle")
    return idle | {"metadata": {METADATA_KEY: {"memory": memory}}}


@pytest.mark.parametrize(
    ("said", "latest"),
    [
        ({"going": "a", "ended": None, "how": {}}, Latest("a", None, None)),
        (
            {"going": None, "ended": "b", "how": {"status": "ok", "execution_count": 2}},
            Latest(None, "b", Replied(False, None, 0, 2)),
        ),
        ({"going": 1, "ended": ["b"], "how": "ok"}, Latest(None, None, None)),
        ({}, Latest(None, None, None)),
    ],
)
def test_what_a_kernel_says_of_its_latest_runs_is_taken_as_far_as_it_makes_sense(said, latest):
    assert messages.latest(message("latest_reply", **said)) == latest
    assert messages.latest(message("kernel_info_reply", **said)) is None


FAILED = Replied(failed=True, ename=None, exit_code=1, execution_count=None)


@pytest.mark.parametrize(
    ("said", "event"),
    [
        (message("stream", name="stdout", text="x"), Text("stdout", "x")),
        (message("stream", name="stderr", text="x"), Text("stderr", "x")),
        (message("execute_input", code="x", execution_count=1), None),
        (message("status", execution_state="busy"), Started()),
        (message("status", execution_state="idle"), Idle()),
        (told_of_memory(lost="why"), Idle(FAILED, MemoryTold(lost="why"))),
        (
            told_of_memory(restored=["x"], not_restored=[["\x1b[1my", "r" * 999]]),
            Idle(FAILED, MemoryTold(("x",), (NotRestored(name="y", reason="r" * 256),))),
        ),
        (
            told_of_memory(restored=["x"] * 2000, not_restored=[]),
            Idle(FAILED, MemoryTold(("x",) * 1001)),
        ),
        (told_of_memory(restored=[1], not_restored=[]), None),
        (told_of_memory(restored=[], not_restored=["ab", "abc"]), None),
        (told_of_memory(restored={}, not_restored=None), None),
        (message("status", execution_state="starting"), None),
        (
            message("execute_result", data={"a/b": "c"}, metadata={"m": 1}, execution_count=4),
            Result({"a/b": "c"}, {"m": 1}, 4),
        ),
        (
            message("display_data", data={"a/b": [1]}, metadata={}, transient={"display_id": "i"}),
            Display({"a/b": [1]}, {}, "i"),
        ),
        (
            message("update_display_data", data={}, metadata={}, transient={"display_id": "i"}),
            UpdateDisplay({}, {}, "i"),
        ),
        (message("update_display_data", data={}, metadata={}), None),
        (message("clear_output", wait=True), ClearOutput(wait=True)),
        (
            message("error", ename="E", evalue="\x1b[31mv\x1b[0m", traceback=["\x1b[1;32mt\x1b[m"]),
            Raised("E", "v", ("t",)),
        ),
        (message("comm_open", data={}), None),
    ],
)
def test_a_message_of_the_protocol_is_its_event(said, event):
    assert messages.event(said) == event


def test_lone_surrogates_become_question_marks():
    assert messages.event(message("stream", name="stdout", text="a\ud800b")) == Text(
        "stdout", "a?b"
    )


def test_what_an_answer_could_not_carry_is_left_out_of_a_bundle():
    nested = json.loads("[" * 300 + "]" * 300)
    said = message(
        "display_data",
        data={"text/plain": "x", "application/json": nested, "a/b": {"\ud800": ["\ud800"]}},
        metadata={},
    )
    assert messages.event(said) == Display({"text/plain": "x", "a/b": {"?": ["?"]}}, {})


@pytest.fixture
def session():
    return Session(key=b"secret")


def test_a_signed_message_is_unpacked(session):
    said = session.msg("stream", {"name": "stdout", "text": "x"}, parent={"msg_id": "p"})
    unpacked = messages.unpack(session, session.serialize(said))
    assert messages.event(unpacked) == Text("stdout", "x")
    assert messages.parent_id(unpacked) == "p"


def test_a_message_with_another_key_or_altered_is_none(session):
    said = session.msg("stream", {"name": "stdout", "text": "x"})
    assert messages.unpack(session, Session(key=b"other").serialize(said)) is None
    *head, content = session.serialize(said)
    assert messages.unpack(session, [*head, content.replace(b"x", b"y")]) is None


@pytest.mark.parametrize(
    "part", [b"", b"{", b"null", b"[]", b"7", b"\xff", b"[" * 100_000, b"[" * 1500 + b"]" * 1500]
)
@pytest.mark.parametrize("position", range(4))
def test_a_signed_message_of_anything_but_objects_raises_nothing(session, part, position):
    parts = [b'{"msg_type": "stream"}', b"{}", b"{}", b"{}"]
    parts[position] = part
    unpacked = messages.unpack(session, [DELIM, session.sign(parts), *parts])
    if unpacked is not None:
        messages.event(unpacked)
        messages.reply(unpacked)
        messages.parent_id(unpacked)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=20) | st.just(DELIM), max_size=8))
def test_no_frames_whatever_is_in_them_raise(frames):
    assert messages.unpack(Session(key=b"secret"), frames) is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
KINDS = ["stream", "execute_input", "status", "execute_result", "display_data",
         "update_display_data", "clear_output", "error", "nonsense"]  # fmt: skip
FIELDS = ["name", "text", "execution_state", "data", "metadata", "execution_count", "transient",
          "wait", "ename", "evalue", "traceback", "status"]  # fmt: skip
odd_messages = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "msg_type": st.sampled_from(KINDS) | anything,
            "content": st.dictionaries(st.sampled_from(FIELDS), anything) | anything,
            "metadata": st.dictionaries(st.just("kernelsvc"), anything) | anything,
            "parent_header": st.dictionaries(st.just("msg_id"), anything) | anything,
        },
    )
)


@settings(deadline=None, max_examples=150)
@given(odd_messages)
@example(message("execute_result", data={}, metadata={}, execution_count=float("inf")))
@example(message("error", ename="E", evalue="v", traceback=7))
@example(message("display_data", data={}, metadata={}, transient=None))
def test_no_message_whatever_is_in_it_raises(said):
    messages.event(said)


@settings(deadline=None, max_examples=150)
@given(odd_messages)
def test_no_reply_whatever_is_in_it_raises(said):
    replied = messages.reply(said)
    assert isinstance(replied, Replied)
    assert isinstance(replied.exit_code, int)


@settings(deadline=None, max_examples=100)
@given(odd_messages)
def test_a_parent_id_is_text_or_nothing(said):
    assert isinstance(messages.parent_id(said), str | None)


@pytest.mark.parametrize(
    ("said", "exit_code"),
    [
        ({"content": {"status": "ok"}}, 0),
        ({"content": {"status": "error", "ename": "E"}}, 1),
        ({"content": {"status": "aborted"}}, 1),
    ],
)
def test_the_exit_code_of_a_reply_is_that_of_its_status(said, exit_code):
    assert messages.reply(said).exit_code == exit_code


@pytest.mark.parametrize(
    ("ended", "reply"),
    [
        ({"status": "ok", "execution_count": 2, "exit_code": 0}, Replied(False, None, 0, 2)),
        ({"status": "error", "ename": "E", "exit_code": 3}, Replied(True, "E", 3, None)),
        ({"status": "error", "ename": 7, "exit_code": 259}, Replied(True, None, 3, None)),
        ({"status": "ok", "exit_code": "3"}, Replied(False, None, 0, None)),
        ({}, Replied(True, None, 1, None)),
        ("ok", None),
        (None, None),
    ],
)
def test_the_idle_of_a_run_tells_how_it_ended(ended, reply):
    said = message("status", execution_state="idle") | {"metadata": {"kernelsvc": ended}}
    assert messages.event(said) == Idle(reply)

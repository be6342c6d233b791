"""The negative controls: whatever a service could get wrong, the model finds out."""

import json
from contextlib import nullcontext
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.torture import scripts
from tests.torture.expectations import REPLACING, WORDS, Fate
from tests.torture.model import Model
from tests.torture.scripts import Script, canonical
from tests.torture.session import EMPTY, Memory, Session
from tests.torture.violation import Violation

SCRIPT = Script("n", "s-token")
KEPT = Memory("s-token", 3)


def session_with(memory=KEPT, **fields):
    """A session whose last run has left that."""
    found = frozenset({memory})
    has_memory = memory != EMPTY
    fields = {"has_memory": has_memory, "has_snapshot": has_memory, **fields}
    return Session("s", live=found, completed=found, **fields)


def answer(script=SCRIPT, found=KEPT, memory="kept", **changes):
    """What a service answers to a run that found that."""
    looked = {
        "nonce": script.nonce,
        "names": [] if found == EMPTY else ["counter", "token"],
        "token": found.token,
        "counter": found.counter,
        "files": {},
        "data": {},
        "kernel": [4026531836, 3],
        "at": 1.0,
        **changes.pop("looked", {}),
    }
    return {
        "run_id": "run_1",
        "session_id": "s",
        "status": "completed",
        "exit_code": 0,
        "timed_out": False,
        "stdout": f"{json.dumps(looked)}\nchanged\n{script.says}",
        "memory": memory,
        "missing": None,
        "data": {},
        "started_at": "2026-01-01T00:00:00.000Z",
        **changes,
    }


# ---- memory


@pytest.mark.parametrize(
    ("fate", "word", "found"),
    [
        (None, "kept", KEPT),
        (Fate.SLEPT, "restored", KEPT),
        (Fate.STOPPED, "restored", KEPT),
        (Fate.CRASHED, "kept", KEPT),
        (Fate.RESTARTED, "lost", EMPTY),
        (Fate.KILLED, "restored", KEPT),
    ],
)
def test_the_truth_is_taken_and_every_other_word_and_memory_is_found_out(fate, word, found):
    def told(word, found):
        session = session_with(runs={"run_0": answer()})
        if fate is not None:
            session.befell(fate)
        session.ran(SCRIPT, answer(found=found, memory=word))
        return session

    assert told(word, found).live == {found.changed_by(SCRIPT)}
    for other in {"kept", "restored", "lost"} - WORDS.get(fate, {"kept"}):
        for memory in (KEPT, EMPTY):
            with pytest.raises(Violation, match="memory is"):
                told(other, memory)
    older, foreign = Memory("s-token", 2), Memory("t-token", 3)
    for memory in {KEPT, EMPTY, older, foreign} - {found}:
        with pytest.raises(Violation, match="memory is"):
            told(word, memory)


def test_what_was_lost_before_a_sleep_has_still_to_be_told():
    session = session_with(runs={"run_0": answer()})
    session.befell(Fate.RESTARTED)
    session.befell(Fate.SLEPT)
    assert session.words == {"lost"}
    session.befell(Fate.CRASHED)
    assert session.words == {"lost"}


def test_a_session_that_slept_when_the_service_was_killed_has_its_memory():
    session = session_with()
    session.befell(Fate.SLEPT)
    session.befell(Fate.CRASHED)
    assert session.words == {"restored"}


def test_without_a_snapshot_the_memory_is_lost_with_the_kernel():
    for fate in REPLACING:
        session = session_with(has_snapshot=False)
        session.befell(fate)
        assert session.words == {"lost"}


@pytest.mark.parametrize(
    ("is_saved", "words"), [(True, {"restored"}), (False, {"lost"}), (None, {"restored", "lost"})]
)
def test_without_a_service_there_is_what_was_saved_and_no_more(is_saved, words):
    session = session_with(is_saved=is_saved, marks={"1000.1"})
    session.befell(Fate.ORPHANED)
    assert (session.words, session.marks) == (words, set())
    session = session_with(EMPTY)
    session.befell(Fate.ORPHANED)
    assert session.words == {"kept"}


def test_a_kernel_that_held_more_than_is_copied_is_lost_with_its_memory_and_that_is_said():
    hold, deaf = scripts.hold(nonce="n", token="s-token"), scripts.be_deaf(nonce="m", token="t")
    end = {"exit_code": 124, "timed_out": True, "status": "timed_out"}
    why = "it died; there is no snapshot of the memory: the session held 116 MiB, and it is"
    for memory, detail, is_true in (
        ("lost", why, True),
        ("lost", "it died", False),
        ("restored", why, False),
    ):
        session = session_with()
        session.ran(hold, answer(hold))
        found = KEPT.changed_by(hold)
        last = answer(deaf, found=found, memory=memory, memory_detail=detail, **end)
        with nullcontext() if is_true else pytest.raises(Violation, match="memory is"):
            session.ran(deaf, last)
            assert session.holds_much is False
    session.befell(Fate.SLEPT)
    assert session.holds_much is False


def test_memory_that_runs_out_for_the_third_time_in_a_row_is_lost():
    script = Script("n", "s-token", exit_codes=frozenset({137}), fate=Fate.RAN_OUT)
    session = session_with()
    for told in ("restored", "restored", "lost"):
        for lie in {"kept", "restored", "lost"} - {told}:
            with pytest.raises(Violation, match="memory is"):
                deepcopy(session).ran(script, answer(script, exit_code=137, memory=lie))
        session.ran(script, answer(script, exit_code=137, memory=told))
    session = session_with(ooms=frozenset({2}))
    session.ran(SCRIPT, answer())
    assert session.ooms == {0}


def test_what_a_copy_lost_it_tells_however_often_the_service_ends():
    session = session_with()
    session.befell(Fate.RESTARTED)
    for fate in (Fate.COPIED, Fate.FORKED):
        copy = session.copy("copy", fate)
        assert copy.words == {"lost"}
        for end in (Fate.STOPPED, Fate.CRASHED):
            copy.befell(end)
            assert copy.words == {"lost"}


def test_what_a_run_may_have_told_of_a_copy_of_what_it_left_need_not_tell():
    session = session_with()
    session.befell(Fate.RESTARTED)
    session.may_run(SCRIPT)
    for fate in (Fate.COPIED, Fate.FORKED):
        assert session.copy("copy", fate).words == {"lost", "restored"}


def test_a_live_copy_outlives_the_service_once_somebody_has_been_told_of_it():
    session = session_with(kernel=(1, 2))
    copy = session.copy("copy", Fate.FORKED)
    assert (copy.words, copy.is_live_copy) == ({"restored"}, True)
    model = Model({"copy": copy}, {"perhaps": deepcopy(copy)})
    model.befell_all(Fate.CRASHED)
    assert (copy.words, copy.is_live_copy) == ({"restored"}, True)
    assert model.may_be["perhaps"].words == {"restored", "lost"}


def test_a_fork_has_the_history_of_its_source_and_no_other():
    session = session_with()
    session.ran(SCRIPT, answer())
    found = summary("run_2")
    session.copy("copy", Fate.FORKED).remembered([found])
    session.copy("copy", Fate.FORKED).copy("copy of it", Fate.FORKED).remembered([found])
    for history in ([], [summary("run_2", memory="lost")], [found, summary("run_3", code="x")]):
        with pytest.raises(Violation):
            session.copy("copy", Fate.FORKED).remembered(history)
    with pytest.raises(Violation, match="nobody sent"):
        session.copy("copy", Fate.COPIED).remembered([found])


def test_a_run_that_ended_before_the_service_was_killed_tells_of_what_was_before():
    script = Script("n", "s-token", options={"background": True})
    session = session_with(begun={"run_1": script}, meanwhile=frozenset({Fate.CRASHED}))
    session.may_run(script)
    session.befell(Fate.CRASHED)
    session.ran(script, answer(script))
    assert session.words == {"kept"}
    for word, found in (("kept", EMPTY), ("lost", KEPT), ("restored", KEPT.changed_by(script))):
        with pytest.raises(Violation, match="memory is"):
            session.ran(SCRIPT, answer(found=found, memory=word))


@pytest.mark.parametrize(("fate", "right"), [(None, "kept"), (Fate.SLEPT, "restored")])
def test_a_run_that_waited_when_the_service_was_killed_says_what_the_next_one_finds(fate, right):
    never_begun = {"status": "interrupted", "exit_code": None, "started_at": None, "stdout": ""}
    for word, is_true in ((right, True), ("lost", False)):
        session = session_with()
        if fate is not None:
            session.befell(fate)
        session.begun, session.meanwhile = {"run_1": SCRIPT}, frozenset({Fate.CRASHED})
        session.may_run(SCRIPT)
        session.befell(Fate.CRASHED)
        with nullcontext() if is_true else pytest.raises(Violation, match="memory is 'lost'"):
            session.ran(SCRIPT, answer(memory=word, **never_begun))


def test_a_name_too_many_is_found_out():
    looked = {"names": ["counter", "stray", "token"]}
    with pytest.raises(Violation, match="stray"):
        session_with().ran(SCRIPT, answer(looked=looked))


def test_a_kernel_that_died_and_kept_its_memory_is_a_lie():
    script = Script("n", "s-token", exit_codes=frozenset({137}), fate=Fate.DIED)
    died = {"exit_code": 137, "status": "failed", "memory": "kept"}
    with pytest.raises(Violation, match="memory is"):
        session_with().ran(script, answer(script, **died))
    session = session_with(has_snapshot=False)
    session.ran(script, answer(script, **{**died, "memory": "lost"}))
    assert session.live == {EMPTY}


def test_of_a_run_without_an_answer_both_outcomes_are_taken_and_no_third():
    for found in (KEPT, KEPT.changed_by(SCRIPT), Memory("s-token", 5)):
        session = session_with()
        session.may_run(SCRIPT)
        if found.counter <= KEPT.counter + 1:
            session.ran(SCRIPT, answer(found=found))
            assert session.live == {found.changed_by(SCRIPT)}
        else:
            with pytest.raises(Violation, match="memory is"):
                session.ran(SCRIPT, answer(found=found))


def test_runs_that_were_sent_together_are_taken_in_either_order():
    session, other = session_with(EMPTY), Script("m", "other")
    for script in (SCRIPT, other):
        session.may_run(script)
    first = {Memory(token, counter) for token in ("s-token", "other") for counter in (1, 2)}
    assert session.copy("copy", Fate.FORKED).live == {EMPTY, *first}


@given(
    st.lists(st.sampled_from([None, Fate.SLEPT, Fate.STOPPED, Fate.CRASHED, Fate.RESTARTED,
                              Fate.KILLED]), min_size=1, max_size=8),
    st.integers(0, 7),
)  # fmt: skip
def test_one_lie_among_truths_is_found_out_wherever_it_is(fates, place):
    """A service that tells the truth all along passes; one that lies once does not."""
    session, memory = session_with(), KEPT
    for number, fate in enumerate(fates):
        word = "kept"
        if fate is not None:
            session.befell(fate)
            (word,) = session.words
        memory = EMPTY if word == "lost" else memory
        script = Script(f"n{number}", f"s-{number}")
        said = answer(script, memory, word, run_id=f"run_{number}")
        if number == place % len(fates):
            for lie in {"kept", "restored", "lost"} - {word}:
                with pytest.raises(Violation):
                    session.ran(script, {**said, "memory": lie})
        session.ran(script, said)
        memory = memory.changed_by(script)


# ---- what a run tells besides


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exit_code": 1}, "exit code"),
        ({"exit_code": 130, "status": "interrupted"}, "nobody has interrupted"),
        ({"exit_code": 124}, "timed out"),
        ({"timed_out": True}, "timed out"),
        ({"status": "running"}, "an answered run is"),
        ({"session_id": "t"}, "another session's"),
        ({"data": {"of": "t"}}, "data"),
        ({"looked": {"data": {"of": "t"}}}, "data"),
        ({"looked": {"files": {"of-another": "x"}}}, "files that are not the session's"),
        ({"looked": {"files": {"file": "older"}}}, "'file' 'older'"),
        ({"stdout": ""}, "has not said what it found"),
    ],
)
def test_a_wrong_answer_is_found_out(changes, why):
    session = session_with(files={"file": frozenset({"x"})})
    right = {"files": {"file": "x"}}
    session.ran(SCRIPT, answer(looked=right))
    looked = right | changes.pop("looked", {})
    with pytest.raises(Violation, match=why):
        session.ran(SCRIPT, answer(found=KEPT.changed_by(SCRIPT), looked=looked, **changes))


def test_missing_and_strange_output_are_found_out():
    script = scripts.much(nonce="n", token="s-token")
    whole = answer(script)
    session_with().ran(script, whole)
    for stdout in (whole["stdout"][:-10], whole["stdout"] + "of another run\n"):
        with pytest.raises(Violation, match="output is missing or strange"):
            session_with().ran(script, {**whole, "stdout": stdout})


def test_what_a_script_wrote_must_be_there_afterwards():
    script = Script("n", "s-token", files={"file": "x"}, data=canonical({"a": 1}))
    session = session_with()
    session.ran(script, answer(script, data={"a": 1}))
    assert (session.files, session.data) == ({"file": {"x"}}, {'{"a": 1}'})
    with pytest.raises(Violation, match="data"):
        session_with().ran(script, answer(script, data={}))


# ---- histories, files, lists


def summary(run_id="run_1", **changes):
    run = answer(run_id=run_id)
    names = ("run_id", "status", "exit_code", "memory", "timed_out")
    return {**{name: run[name] for name in names}, "code": SCRIPT.code, **changes}


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ([], "are not in the history"),
        ([summary(), summary()], "twice"),
        ([summary("run_2"), summary()], "nobody sent"),
        ([summary(status="running")], "stuck"),
        ([summary(status="queued")], "stuck"),
        ([summary(memory="lost")], "another run"),
        ([summary(exit_code=1)], "another run"),
    ],
)
def test_a_history_that_is_wrong_is_found_out(history, why):
    session = session_with()
    session.ran(SCRIPT, answer())
    session.remembered([summary()])
    with pytest.raises(Violation, match=why):
        session.remembered(history)


def test_a_run_that_was_taken_must_be_in_the_history_and_one_that_was_sent_may_be():
    session = session_with(begun={"run_1": SCRIPT})
    session.remembered([summary(status="running")])
    with pytest.raises(Violation, match="taken"):
        session.remembered([])
    session = session_with(unanswered=[SCRIPT.code])
    session.remembered([])
    session.remembered([summary()])
    with pytest.raises(Violation, match="nobody sent"):
        session.remembered([summary("run_1"), summary("run_2")])


def test_an_answer_that_changes_later_is_found_out():
    session, run = session_with(), answer()
    session.ran(SCRIPT, run)
    session.reread({**run, "background": "more"})
    with pytest.raises(Violation, match="stdout"):
        session.reread({**run, "stdout": ""})


def test_files_and_data_that_are_lost_or_strange_are_found_out():
    session = session_with()
    session.wrote("file", "x")
    session.listed(["file", "go-1"])
    session.found_file("file", "x")
    for paths in ([], ["file", "other"]):
        with pytest.raises(Violation, match="files listed"):
            session.listed(paths)
    with pytest.raises(Violation, match="the file"):
        session.found_file("file", "y")
    session.wrote("file", None)
    with pytest.raises(Violation, match="files listed"):
        session.listed(["file"])
    session.shown({"data": {}, "run_count": 0})
    for shown in ({"data": {"a": 1}, "run_count": 0}, {"data": {}, "run_count": 1}):
        with pytest.raises(Violation):
            session.shown(shown)


def test_sessions_that_are_lost_or_strange_are_found_out():
    model = Model({"s": Session("s")}, {"maybe": Session("maybe")})
    model.listed(["s"])
    model.listed(["s", "maybe"])
    with pytest.raises(Violation, match="lost"):
        model.listed([])
    with pytest.raises(Violation, match="should not be there"):
        model.listed(["s", "deleted"])

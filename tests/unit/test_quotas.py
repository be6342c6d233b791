"""Quotas: counted exactly, given back exactly, and told to whoever has to wait."""

import pytest

from kernelsvc.errors import QuotaExceeded
from kernelsvc.models.caller import Caller, Quotas
from kernelsvc.sessions.quotas import QuotaBook


class Clock:
    """A clock that a test moves on."""

    seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(clock):
    return QuotaBook(clock)


def caller(owner="alice", key_id="k", **quotas):
    return Caller(owner, frozenset({"run"}), key_id, Quotas(**quotas))


def refusal(attempt, who):
    with pytest.raises(QuotaExceeded) as refused:
        attempt(who)
    return refused.value


def test_a_caller_without_quotas_may_have_any_number(book):
    for _ in range(1000):
        book.add_session(caller())
        book.add_run(caller())


def test_one_session_too_many_is_refused_until_one_is_gone(book):
    who = caller(max_sessions=2)
    book.add_session(who)
    book.add_session(who)
    assert "max_sessions is 2" in str(refusal(book.add_session, who))
    book.drop_session("alice")
    book.add_session(who)
    refusal(book.add_session, who)


def test_sessions_are_the_owners_whichever_key_made_them(book):
    book.open({"alice": 1, "bob": 7})
    book.add_session(caller(key_id="other"))
    refusal(book.add_session, caller(max_sessions=2))
    book.add_session(caller("carol", max_sessions=2))


def test_one_parallel_run_too_many_is_refused_until_one_has_ended(book):
    who = caller(max_parallel_runs=2)
    first, second = book.add_run(who), book.add_run(who)
    assert "max_parallel_runs is 2" in str(refusal(book.add_run, who))
    first.release()
    first.release()
    book.add_run(who)
    refusal(book.add_run, who)
    second.release()
    book.add_run(who)


def test_runs_are_counted_by_key(book):
    book.add_run(caller(key_id="a", max_parallel_runs=1, max_runs_per_minute=1))
    book.add_run(caller(key_id="b", max_parallel_runs=1, max_runs_per_minute=1))
    refusal(book.add_run, caller(key_id="a", max_parallel_runs=1))


def test_who_waits_as_long_as_told_is_let_in_and_who_waits_less_is_not(book, clock):
    who = caller(max_runs_per_minute=3)
    for _ in range(3):
        book.add_run(who).release()
        clock.seconds += 7.3
    told = refusal(book.add_run, who).retry_seconds
    assert told == 39  # the first began 21.9 s ago
    clock.seconds += 38
    assert refusal(book.add_run, who).retry_seconds == 1
    clock.seconds += 1
    book.add_run(who)
    assert refusal(book.add_run, who).retry_seconds == 7  # the second leaves 7.3 s after the first


def test_a_minute_holds_no_more_runs_than_its_quota_wherever_it_begins(book, clock):
    who, begun = caller(max_runs_per_minute=5), []
    for _ in range(400):
        clock.seconds += 1.7
        try:
            book.add_run(who).release()
        except QuotaExceeded:
            continue
        begun.append(clock.seconds)
    assert len(begun) > 50
    assert all(later - earlier >= 60 for earlier, later in zip(begun, begun[5:], strict=False))


def test_a_run_that_came_to_nothing_gives_everything_back(book):
    who = caller(max_parallel_runs=1, max_runs_per_minute=1)
    for _ in range(5):
        book.add_run(who).cancel()
    reservation = book.add_run(who)
    reservation.release()
    reservation.cancel()
    assert "per_minute" in str(refusal(book.add_run, who))


def test_a_refused_run_uses_nothing_up(book, clock):
    who = caller(max_parallel_runs=1, max_runs_per_minute=2)
    running = book.add_run(who)
    for _ in range(10):
        refusal(book.add_run, who)
    running.release()
    book.add_run(who).release()
    clock.seconds += 60
    book.add_run(who)

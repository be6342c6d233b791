"""The kernel's own threads end before a fork, and go on behind it."""

import os
import sys
import threading
import traceback

import pytest

from kernelsvc.kernel_host import own_threads
from kernelsvc.kernel_host.own_threads import OwnThread
from tests.support.waiting import eventually


def running():
    """How many there are in this process."""
    stacks = [traceback.walk_stack(frame) for frame in sys._current_frames().values()]
    own = OwnThread._run.__code__
    return sum(any(frame.f_code is own for frame, _ in stack) for stack in stacks)


class Worker(OwnThread):
    """Counts its turns; one that is held up is busy until it is let go."""

    def __init__(self):
        super().__init__(self._work)
        self.turns = threading.Semaphore(0)
        self.may_go = threading.Event()
        self.may_go.set()

    def _work(self):
        os.eventfd_read(self.awakened)
        self.turns.release()
        self.may_go.wait(20)

    def begin(self):
        super().begin()
        os.set_blocking(self.awakened, True)

    def works(self):
        while self.turns.acquire(blocking=False):
            pass
        self.wake()
        return self.turns.acquire(timeout=20)


@pytest.fixture
def worker():
    made = Worker()
    made.begin()
    yield made
    made.may_go.set()
    own_threads.pause()
    made.leave()


def test_there_is_no_thread_at_a_fork_and_one_behind_it_time_after_time(worker):
    for _ in range(200):
        assert worker.works()
        assert running() == 1
        own_threads.pause()
        assert running() == 0
        assert own_threads.go_on() == 1
        assert own_threads.go_on() == 0


def test_one_that_is_busy_is_not_waited_for_and_goes_on(worker):
    worker.may_go.clear()
    assert worker.works()
    own_threads.pause()
    assert running() == 1
    assert own_threads.go_on() == 0
    worker.may_go.set()
    assert worker.works()
    assert running() == 1


async def test_one_whose_descriptors_the_code_has_closed_ends(worker, capfd):
    assert worker.works()
    other = os.dup(worker.awakened)
    os.close(worker.awakened)
    os.eventfd_write(other, 1)
    await eventually(lambda: running() == 0)
    os.dup2(other, worker.awakened)
    os.close(other)
    assert capfd.readouterr().err == ""


def test_what_a_turn_raises_is_told_and_ends_nothing(capfd):
    raised = threading.Event()

    def fail():
        os.eventfd_read(failing.awakened)
        if not raised.is_set():
            raised.set()
            raise RuntimeError("of this turn")
        done.set()

    done = threading.Event()
    failing = OwnThread(fail)
    failing.begin()
    os.set_blocking(failing.awakened, True)
    failing.wake()
    assert raised.wait(20)
    failing.wake()
    assert done.wait(20)
    own_threads.pause()
    failing.leave()
    assert "RuntimeError: of this turn" in capfd.readouterr().err

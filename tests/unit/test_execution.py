"""When an execute request counts as ended, whatever of its kernel's words is lost."""

import asyncio

import pytest

from kernelsvc.kernels import execution as module
from kernelsvc.kernels.execution import Execution
from kernelsvc.models.event import Idle, Replied, Started

pytestmark = pytest.mark.usefixtures("io_loop")

OK = Replied(failed=False, ename=None, exit_code=0, execution_count=1)


@pytest.fixture
def execution():
    return Execution("request", lambda event: None)


async def test_an_idle_that_tells_the_end_ends_it_at_once(execution):
    execution.hear(Idle(OK))
    assert (execution.is_done, execution.complete, execution.reply) == (True, True, OK)


@pytest.mark.parametrize("idle_first", [True, False])
async def test_an_idle_and_a_reply_end_it_together(execution, idle_first):
    said = [lambda: execution.hear(Idle()), lambda: execution.hear_reply(OK)]
    first, second = said if idle_first else reversed(said)
    first()
    assert not execution.is_done
    second()
    assert (execution.is_done, execution.complete, execution.reply) == (True, True, OK)


@pytest.mark.parametrize("reply", [OK, None])
async def test_an_idle_or_a_reply_alone_ends_it_after_a_while(monkeypatch, reply):
    monkeypatch.setattr(module, "LOST_SECONDS", 0.05)
    execution = Execution("request", lambda event: None)
    if reply:
        execution.hear_reply(reply)
    else:
        execution.hear(Idle())
    assert not execution.is_done
    await execution.until_done(10)
    assert (execution.is_done, execution.complete, execution.reply) == (True, False, reply)


async def test_who_waits_for_the_start_is_woken_by_it(execution):
    waiting = asyncio.create_task(execution.news(60, start=True))
    await asyncio.sleep(0)
    execution.hear(Started())
    await asyncio.wait_for(waiting, 5)
    assert execution.started_at is not None
    assert not execution.is_done


async def test_the_clock_runs_from_the_first_start(execution):
    execution.hear(Started())
    started_at = execution.started_at
    execution.hear(Started())
    assert execution.started_at == started_at

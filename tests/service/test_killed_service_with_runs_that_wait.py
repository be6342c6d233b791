"""The service is killed (SIGKILL) while runs wait that somebody counts on: they are interrupted.

What they say of the memory is true, and it is there.
"""

import asyncio

from tests.service.test_killed_service import begin, ended, make_lives
from tests.support.waiting import eventually

__all__ = ["make_lives"]

UNTIL = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
SLOW_TO_WAKE = """
import os, time
def wake():
    open("waking", "w").close()
    while not os.path.exists("go"): time.sleep(0.01)
class Slow:
    def __reduce__(self): return wake, ()
x, slow = 1, Slow()
"""
SETUP = {"commands": ["while [ ! -e go ]; do sleep 0.01; done"]}


async def queue(api, session_id):
    """Send a run to the background, which is to wait there."""
    body = {"code": "x = 2", "background": True}
    return (await api.send("POST", f"/api/sessions/{session_id}/run", body)).json["run_id"]


async def says(api, session_id, run_id, memory):
    """The run has not begun, and that is what it says of the memory."""
    run = await ended(api, run_id, session_id)
    assert (run["status"], run["started_at"], run["exit_code"]) == ("interrupted", None, None), run
    assert (run["error"]["ename"], run["memory"]) == ("ServiceStopped", memory), run
    return run


async def test_runs_that_waited_at_a_kill_take_nothing_with_them(make_lives):
    lives = make_lives()
    async with lives.life() as api:
        await asyncio.gather(api.create("going", data={"a": 1}), api.create("waking"))
        await api.create("new", setup=SETUP)
        await api.create("afresh", persistent=False)
        await asyncio.gather(api.run("x = 1", "going"), api.run(SLOW_TO_WAKE, "waking"))
        assert (await api.send("POST", "/api/sessions/waking/sleep")).status == 200
        first = {name: await begin(api, UNTIL, name) for name in ("going", "afresh")}
        queued = {name: await queue(api, name) for name in ("going", "waking", "new", "afresh")}
        twice = await queue(api, "waking")
        await eventually(lives.workspace("waking").joinpath("waking").exists)
        lives.kill()
    async with lives.life() as api:
        run = await says(api, "going", queued["going"], "kept")
        assert (run["memory_detail"], run["data"]) == (None, {"a": 1})
        for run_id in (queued["waking"], twice):
            run = await says(api, "waking", run_id, "restored")
            assert run["memory_detail"] == "the session was asleep"
        assert (await says(api, "new", queued["new"], "kept"))["memory_detail"] is None
        run = await says(api, "afresh", queued["afresh"], "lost")
        assert run["memory_detail"].startswith("the session is not persistent")
        for name in ("going", "waking", "new", "afresh"):
            lives.workspace(name).joinpath("go").touch()
        assert (await ended(api, first["going"], "going"))["memory"] == "kept"
        # Whoever looks at what is stored finds what the service knows.
        assert (await api.session("waking"))["run_count"] == 3
    async with lives.life(orphan_grace=0) as api:
        for name in ("going", "waking"):
            run = await api.run("x", name)
            assert (run["text"], run["memory"]) == ("1", "restored"), run
        lives.workspace("going").joinpath("go").unlink()
        begun = await begin(api, UNTIL, "going")
        queued["going"] = await queue(api, "going")
        lives.kill()
    async with lives.life() as api:
        # Kernels have ended with the service.
        for run_id in (begun, queued["going"]):
            await says(api, "going", run_id, "lost")
        run = await api.run("'x' in globals()", "going")
        assert (run["text"], run["memory"]) == ("False", "lost")
        lives.note()

"""The service is killed (SIGKILL) and started again: live copies of sessions have outlived it."""

import asyncio

import psutil

from tests.service.test_fork import fork
from tests.service.test_killed_service import begin, ended, groups_of, make_lives
from tests.support.waiting import eventually

__all__ = ["make_lives"]

COUNT = "n += 1; print(n, open('name').read(), next(numbers))"
NAME = "open('name', 'w').write({!r})"
OF_SANDBOXES = ("annex", "bwrap", "kernel", "kernel-host", "sh", "snapshot")


def left(lives, *names):
    """What runs of sandboxes, by these names, of all that any of the services has started."""
    lives.note()
    found = []
    for process in lives.processes:
        try:
            if process.name() in names and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def counts(api, name, number, memory="kept"):
    """A session's next run has this number, its own file and the generator of its kernel."""
    run = await api.run(COUNT, name)
    assert (run["stdout"], run["memory"]) == (f"{number} {name} {number - 1}\n", memory), run


async def times_out(api, name):
    """A run that costs the kernel, and no memory."""
    run = await api.run("n = -1\nimport time; time.sleep(60)", name, timeout=0.3)
    assert (run["exit_code"], run["memory"]) == (124, "restored"), run


HOLD_BEHIND_CODE = """
import os, time
def hold():
    while os.path.exists("armed") and not os.path.exists("go"):
        open("held", "w").close()
        time.sleep(0.01)
get_ipython().events.register("post_execute", hold)
n = 1
"""


async def test_a_kill_in_the_midst_of_a_fork_costs_the_source_nothing(make_lives):
    lives = make_lives()
    async with lives.life() as api:
        await api.create()
        await api.run(HOLD_BEHIND_CODE)
        lives.workspace().joinpath("armed").touch()
        forking = asyncio.create_task(api.send("POST", "/api/sessions/s/fork", {}))
        # The kernel is about to be copied as it is.
        await eventually(lives.workspace().joinpath("held").exists)
        lives.kill()
        await asyncio.gather(forking, return_exceptions=True)
    lives.workspace().joinpath("go").touch()
    async with lives.life() as api:
        sessions = (await api.send("GET", "/api/sessions")).json["sessions"]
        assert [(each["id"], each["state"]) for each in sessions] == [("s", "idle")]
        await eventually(lambda: len(left(lives, "kernel")) == 1)
        assert left(lives, "annex") == []
        run = await api.run("n = 2; os._exit(1)")
        assert run["memory"] == "restored", run
        run = await api.run("n")
        assert (run["text"], run["memory"]) == ("1", "kept")
        lives.note()


async def test_source_copy_and_copy_of_a_copy_go_on_after_kills_and_nothing_is_left_of_them(
    make_lives,
):
    lives, services = make_lives(terminate_grace=0.3), []
    async with lives.life() as api:
        services.append(lives.service.process.pid)
        await api.create()
        await api.run("n = 0; numbers = iter(range(99))\n" + NAME.format("s"))
        await fork(api, session_ids=["a"])
        await api.run(NAME.format("a"), "a")
        await fork(api, "a", session_ids=["b", "quiet"])
        await api.run(NAME.format("b"), "b")
        for name in ("s", "a", "b"):
            await counts(api, name, 1)
        await fork(api, "b", session_ids=["last"])
        lives.kill()
    async with lives.life() as api:
        services.append(lives.service.process.pid)
        assert "kernelsvc_sandboxes 5.0" in (await api.http.get("/metrics")).text
        assert len(left(lives, "kernel")) == len(left(lives, "annex")) + 1 == 5
        for name in ("s", "a"):
            await counts(api, name, 2)
        # Neither has run anything since the one was copied from the other.
        for name in ("b", "last"):
            await times_out(api, name)
            assert (await api.run("n", name))["text"] == "1"
        await counts(api, "b", 2)
        run = await api.run("n", "quiet")
        assert (run["text"], run["memory"]) == ("0", "restored")
        assert run["memory_detail"] == "the session is a copy of a, with its memory"
        lives.kill()
    async with lives.life() as api:
        services.append(lives.service.process.pid)
        assert (await api.run("n", "quiet"))["memory"] == "kept"
        await times_out(api, "s")
        for name in ("s", "b"):
            await counts(api, name, 3)
        await fork(api, "b", session_ids=["new"])
        assert (await api.run("n", "new"))["text"] == "3"
        assert len(left(lives, "annex")) == 5
        copying = asyncio.create_task(fork(api, count=3))
        await eventually(lambda: len(left(lives, "annex")) > 5)
        lives.kill()
        await asyncio.gather(copying, return_exceptions=True)
    async with lives.life() as api:
        services.append(lives.service.process.pid)
        assert (await api.run("n", "new"))["memory"] == "kept"
        # Of what was being copied, as much is awake as had come to be; there is nothing else of it.
        sessions = (await api.send("GET", "/api/sessions")).json["sessions"]
        awake = sum(each["state"] == "idle" for each in sessions)
        assert 6 <= awake <= 9
        await eventually(lambda: len(left(lives, "kernel")) == awake)
        assert len(left(lives, "annex")) == awake - 1
        assert (await api.send("POST", "/api/sessions/s/sleep")).status == 200
        await counts(api, "a", 3)
        run = await api.run("n")
        assert (run["text"], run["memory"]) == ("3", "restored")
        assert (await api.send("DELETE", "/api/sessions")).status == 200
        await eventually(lambda: not left(lives, *OF_SANDBOXES))
        assert list(lives.runtime.glob("*/host-*")) == []
        assert "kernelsvc_sandboxes 0.0" in (await api.http.get("/metrics")).text
    assert [group for pid in services for group in groups_of(pid)] == []


async def test_copies_outlive_their_source_and_a_kill_and_runs_in_them_are_seen_through(make_lives):
    lives = make_lives(terminate_grace=0.3)
    until = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    async with lives.life() as api:
        services = [lives.service.process.pid]
        await asyncio.gather(api.create(), api.create("moved"))
        await asyncio.gather(api.run("x = 1"), api.run("x = 2", "moved"))
        await fork(api, session_ids=["a", "b"])
        await fork(api, "moved", session_ids=["c"])
        await asyncio.gather(*(api.run("x", name) for name in ("a", "b", "c")))
        await api.send("DELETE", "/api/sessions/s")
        # It gets a sandbox of its own, and leaves the one that its copy is in.
        for what in ("sleep", "wake"):
            assert (await api.send("POST", f"/api/sessions/moved/{what}")).status == 200
        going = await begin(api, until + "x += 1; print('to the end')", "a")
        lives.kill()
    async with lives.life() as api:
        services.append(lives.service.process.pid)
        assert "kernelsvc_sandboxes 4.0" in (await api.http.get("/metrics")).text
        assert (await api.session("a"))["state"] == "running"
        lives.workspace("a").joinpath("go").touch()
        run = await ended(api, going, "a")
        assert (run["stdout"], run["exit_code"], run["memory"]) == ("to the end\n", 0, "kept")
        for name, x in (("a", "2"), ("b", "1"), ("c", "2")):
            run = await api.run("x", name)
            assert (run["text"], run["memory"]) == (x, "kept")
        run = await api.run("x", "moved")
        assert (run["text"], run["memory"]) == ("2", "restored")
        for name in ("b", "c", "moved"):
            assert (await api.send("DELETE", f"/api/sessions/{name}")).status == 200
        # What the source had is there for this copy, and goes with it.
        groups = [group for pid in services for group in groups_of(pid)]
        assert len({each.name for group in groups for each in group.glob("host-*")}) in (0, 2)
        assert len(list(lives.runtime.glob("*/host-*"))) == 2
        assert len(list(lives.runtime.glob("*/*.json"))) == 1
        (kernel,) = left(lives, "kernel")
        assert (len(left(lives, "kernel-host")), len(left(lives, "annex"))) == (2, 1)
        going = await begin(api, until.replace("go", "stay"), "a")
        lives.kill()
    kernel.parent().kill()
    async with lives.life() as api:
        run = await ended(api, going, "a")
        assert (run["status"], run["memory"]) == ("interrupted", "lost")
        assert (await api.session("a"))["state"] == "sleeping"
        assert "kernelsvc_sandboxes 0.0" in (await api.http.get("/metrics")).text
        await eventually(lambda: not left(lives, *OF_SANDBOXES))
        assert (await api.run("1", "a"))["memory"] == "lost"
        await api.send("DELETE", "/api/sessions/a")
        await eventually(lambda: not left(lives, *OF_SANDBOXES))

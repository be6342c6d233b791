"""With PostgreSQL in SQLite's place: what was acknowledged is there after a kill (SIGKILL)."""

from tests.service.test_killed_service import begin, ended, make_lives
from tests.service.test_killed_service_with_runs_that_wait import UNTIL, queue, says
from tests.support.postgresql import PostgreSQL

__all__ = ["make_lives"]

CHANGE = "import json; json.dump({'by': 'the run'}, open('.session_data.json', 'w'))"


async def test_after_a_kill_all_that_was_acknowledged_is_there(make_lives):
    with PostgreSQL() as server:
        lives = make_lives(database_url=server.url)
        async with lives.life() as api:
            await api.create(data={"a": 1})
            await api.run("kept = 1")
            await api.create("asleep")
            await api.run("kept = 1", "asleep")
            assert (await api.send("POST", "/api/sessions/asleep/sleep")).status == 200
            going = await begin(api, UNTIL + "print('after')")
            queued = await queue(api, "s")
            code = {"code": "kept", "description": "\u2028"}
            assert (await api.send("PUT", "/api/sessions/s/code", code)).status == 200
            for path in ("/api/sessions/a%00b", "/api/sessions/s/runs/a%00b"):
                assert (await api.send("GET", path)).status == 400
            created_at = (await api.session("asleep"))["created_at"]
            await api.create("data", metadata={"of": "creation"})
            patch = {"data": {"patched": True}, "metadata": {"\0": "\0"}}
            patched = await api.send("PATCH", "/api/sessions/s", patch)
            answered = await api.run(CHANGE + "\nprint('\\0')", "data")
            lives.kill()
        assert not lives.data.joinpath("kernelsvc.db").exists()
        async with lives.life() as api:
            session = await api.session()
            assert (session["state"], session["data"]) == ("running", {"patched": True})
            assert session["metadata"] == patched.json["session"]["metadata"]
            found = await api.send("GET", f"/api/sessions/data/runs/{answered['run_id']}")
            assert found.json == answered
            assert (await api.session("data"))["data"] == {"by": "the run"} == answered["data"]
            await says(api, "s", queued, "kept")
            lives.workspace().joinpath("go").touch()
            run = await ended(api, going)
            assert (run["stdout"], run["exit_code"], run["memory"]) == ("after\n", 0, "kept")
            assert run["data"] == {"patched": True}
            # The stored code.
            run = (await api.send("POST", "/api/sessions/s/run", {})).json
            assert (run["text"], run["memory"]) == ("1", "kept")
            assert (await api.session("asleep"))["created_at"] == created_at
            run = await api.run("kept", "asleep")
            assert (run["text"], run["memory"]) == ("1", "restored")
            lives.note()

"""POST /api/sessions/{id}/fork: live copies, independent from then on."""

from tests.support.files import get, paths, put

PATH = "/api/sessions/s/fork"
CANNOT_BE_PICKLED = """
import random, sys, threading
numbers = iter([1, 2, 3]); next(numbers)
lines = open('lines.txt'); lines.readline()
def here():
    yield from range(10)
generator = here(); next(generator)
counter = 41
random.seed(1)
"""


async def fork(api, session_id="s", status=201, **body):
    answer = await api.send("POST", f"/api/sessions/{session_id}/fork", body or None)
    assert answer.status == status, answer.json
    return answer.json


async def test_copies_have_what_no_file_could_keep_and_are_independent(api):
    await api.create(data={"n": 1}, metadata={"m": 1})
    await put(api, "lines.txt", b"one\ntwo\nthree\n")
    await api.run(CANNOT_BE_PICKLED)
    await api.run("await_me = 1; 'second'")

    made = await fork(api, session_ids=["a", "b"])
    assert made["source_session_id"] == "s"
    assert [copy["id"] for copy in made["sessions"]] == ["a", "b"]
    for copy in made["sessions"]:
        assert (copy["run_count"], copy["data"], copy["metadata"]) == (2, {"n": 1}, {"m": 1})

    use = "counter += {}; print(counter, next(numbers), next(generator), lines.readline(), end='')"
    for number, name in enumerate(["a", "b"], start=1):
        run = await api.run(use.format(number), name)
        assert run["stdout"] == f"{41 + number} 2 1 two\n"
        assert run["memory"] == "restored"
        assert run["memory_detail"] == "the session is a copy of s, with its memory"
        assert run["execution_count"] == 3
        assert (await api.run("counter", name))["memory"] == "kept"
    await api.run("open('lines.txt', 'w').write('changed'); open('new', 'w').write('x')", "a")
    run = await api.run(use.format(0))
    assert (run["stdout"], run["memory"]) == ("41 2 1 two\n", "kept")
    assert (await get(api, "lines.txt")).content == b"one\ntwo\nthree\n"
    assert await paths(api, "b") == ["lines.txt"]

    # The copies' random numbers are their own.
    drawn = {(await api.run("random.random()", name))["text"] for name in ("s", "a", "b")}
    assert len(drawn) == 3

    # Each ends by itself; the others live on.
    await api.send("DELETE", "/api/sessions/s")
    assert (await api.run("counter", "a"))["text"] == "42"
    run = await api.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "a")
    assert (run["exit_code"], run["memory"]) == (137, "restored")
    assert (await api.run("counter", "a"))["text"] == "42"
    await api.send("POST", "/api/sessions/a/sleep")
    run = await api.run("counter", "a")
    assert (run["text"], run["memory"]) == ("42", "restored")
    assert (await api.run("counter", "b"))["text"] == "43"
    await api.send("DELETE", "/api/sessions/b")

"""Many sessions, many runs, many cycles: nothing mixed up, nothing left."""

import asyncio

from tests.support.leaks import holdings
from tests.support.waiting import eventually


async def test_twenty_sessions_in_parallel_mix_nothing_up(api):
    names = [f"session-{number}" for number in range(20)]

    async def work(name):
        await api.create(name, data={"name": name})
        await api.run("seen = []", name)
        for number in range(50):
            run = await api.run(f"seen.append('{name}'); print(len(seen), *set(seen))", name)
            assert run["stdout"] == f"{number + 1} {name}\n"
            assert run["session_id"] == name
            assert run["data"] == {"name": name}
            assert run["memory"] == "kept"

    await asyncio.gather(*map(work, names))
    for name in names:
        assert (await api.session(name))["run_count"] == 51


async def test_create_run_delete_cycles_leave_nothing_behind(api, server, make_settings):
    settings = make_settings()

    async def cycle(number):
        await api.create(f"cycle-{number}")
        code = "open('f', 'w').close()\nprint('x' * 1000)"
        assert (await api.run(code, f"cycle-{number}"))["exit_code"] == 0
        assert (await api.send("DELETE", f"/api/sessions/cycle-{number}")).status == 200

    await asyncio.gather(*(cycle(number) for number in range(4)))
    directories = (settings.data_dir, settings.runtime_dir)
    before = holdings(*directories)
    for start in range(4, 24, 4):
        await asyncio.gather(*(cycle(number) for number in range(start, start + 4)))
    await eventually(lambda: holdings(*directories) == before)


async def test_timeouts_leave_nothing_behind(api, server, make_settings):
    settings = make_settings()
    await api.create()
    await api.run("1")
    directories = (settings.data_dir, settings.runtime_dir)
    before = holdings(*directories)
    for _ in range(5):
        run = await api.run("import time; time.sleep(60)", timeout=0.1)
        assert run["exit_code"] == 124
        assert (await api.run("1"))["exit_code"] == 0
    await eventually(lambda: holdings(*directories) == before)


async def test_memory_error_is_an_ordinary_exception(api):
    await api.create()
    run = await api.run("hog = bytearray(1 << 60)")
    assert (run["exit_code"], run["error"]["ename"], run["memory"]) == (1, "MemoryError", "kept")

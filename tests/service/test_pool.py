"""Kernels that wait: given to sessions that are created or woken, and made their own."""

import asyncio
import errno
import os
import signal
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from kernelsvc.files.workspace import Workspaces
from tests.support.api import Api
from tests.support.named import named
from tests.support.waiting import eventually

WHERE = "import os; print(os.getcwd(), sorted(n for n in os.listdir('.') if n[0] != '.'))"


class Pooled:
    """A service with a pool, its client, and what it says of its kernels."""

    def __init__(self, server, api, records):
        self.api = api
        self._server = server
        self._records = records
        self._seen = 0

    async def prepared(self, count=1):
        """Wait until so many more kernels have been made ready than when this was last asked."""
        self._seen += count
        await eventually(lambda: len(self._of("kernel_prepared")) >= self._seen, seconds=60)

    def hosts(self):
        """The process ids, on this machine, of the hosts there are."""
        hosts = {host.pid for host in named("kernel-host")}
        # A kernel is called like its host for a moment.
        return [pid for pid in hosts if psutil.Process(pid).ppid() not in hosts]

    def how(self):
        """How the session that got a kernel last came by it."""
        return self._of("kernel_started")[-1].how

    @property
    def sandboxes(self):
        """How many there are that sessions have."""
        return self._server.service._capacity.taken

    def _of(self, event):
        return [record for record in self._records if record.message == event]


@pytest.fixture
def pooled(io_loop, serve, caplog):
    """Start a service with changed settings."""
    clients = []
    caplog.set_level("INFO")

    def start(**changes):
        server = serve(**{"pool_min": 1, "pool_max": 1, **changes})
        clients.append(httpx.AsyncClient(base_url=server.url, timeout=60))
        return Pooled(server, Api(clients[-1]), caplog.records)

    yield start
    for client in clients:
        io_loop.run_sync(client.aclose)


def test_a_new_session_gets_the_kernel_that_waits_and_the_next_one_is_made_ready(io_loop, pooled):
    service = pooled()

    async def use():
        for session_id in ("a", "b"):
            await service.prepared()
            await service.api.create(session_id)
            run = await service.api.run(WHERE + "; x = 1", session_id)
            assert service.how() == "claimed"
            assert run["stdout"] == "/workspace []\n"
            assert (run["memory"], run["execution_count"]) == ("kept", 1)

    io_loop.run_sync(use)


def test_a_session_that_wakes_finds_its_files_in_the_kernel_that_waited(io_loop, pooled):
    service = pooled()

    async def use():
        await service.prepared()
        await service.api.create(data={"n": 1})
        await service.api.run(
            "import os\n"
            "os.makedirs('deep/er')\n"
            "open('deep/er/file', 'w').write('kept')\n"
            "os.symlink('deep', 'link')\n"
            "open('.session_data.json', 'w').write('{\"n\": 2}')\n"
        )
        await service.api.send("POST", "/api/sessions/s/sleep")
        await service.prepared()
        run = await service.api.run("print(open('link/er/file').read()); " + WHERE)
        assert service.how() == "claimed"
        assert run["stdout"] == "kept\n/workspace ['deep', 'link']\n"
        assert (run["data"], run["memory"]) == ({"n": 2}, "restored")
        assert run["memory_detail"] == "the session was asleep"
        await service.api.run("open('new', 'w').write('from the code')")
        got = await service.api.http.get("/api/sessions/s/files/new")
        assert got.text == "from the code"
        await service.api.http.put("/api/sessions/s/files/sent", content=b"from outside")
        run = await service.api.run("print(open('sent').read())")
        assert run["stdout"] == "from outside\n"

    io_loop.run_sync(use)


def test_the_limits_of_the_session_are_those_of_the_kernel_that_waited(io_loop, pooled):
    service = pooled()

    async def use():
        await service.prepared()
        await service.api.create(limits={"memory": "200MiB", "open_files": 100, "processes": 40})
        run = await service.api.run(
            "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
        )
        assert service.how() == "claimed"
        assert run["stdout"] == "100\n"
        run = await service.api.run("x = bytearray(1 << 30)")
        assert run["error"]["ename"] in ("OutOfMemory", "MemoryError")
        assert "200 MiB" in run["error"]["evalue"] or run["error"]["ename"] == "MemoryError"

    io_loop.run_sync(use)


def test_more_than_the_kernel_that_waited_was_limited_to_can_be_used(io_loop, pooled):
    service = pooled(limits={"memory": "150MiB", "open_files": 100, "file_size": "1MiB"})

    async def use():
        await service.prepared()
        await service.api.create(
            limits={"memory": "500MiB", "open_files": 300, "file_size": "4MiB"}
        )
        run = await service.api.run(
            "files = [open('/dev/null') for _ in range(200)]\n"
            "x = bytearray(250 << 20)\n"
            "open('big', 'wb').write(bytes(3 << 20))\n"
        )
        assert service.how() == "claimed"
        assert run["exit_code"] == 0, run

    io_loop.run_sync(use)


def test_a_session_with_internet_does_not_get_a_kernel_without_nor_the_other_way(io_loop, pooled):
    service = pooled()
    code = "import os; print('HTTPS_PROXY' in os.environ)"

    async def use():
        await service.prepared()
        await service.api.create("open", allowInternetAccess=True)
        assert (await service.api.run(code, "open"))["stdout"] == "True\n"
        assert service.how() == "started"
        # That one was asked for is reason to keep another.
        await service.prepared()
        await service.api.create("closed")
        assert (await service.api.run(code, "closed"))["stdout"] == "False\n"
        assert service.how() == "claimed"
        await service.api.create("open-too", allowInternetAccess=True)
        assert (await service.api.run(code, "open-too"))["stdout"] == "True\n"
        assert service.how() == "claimed"

    io_loop.run_sync(use)


def test_a_copy_is_where_a_kernel_waited_and_one_that_comes_to_nothing_leaves_nothing_there(
    io_loop, pooled, monkeypatch
):
    service = pooled(pool_max=2)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no space")

    async def use():
        await service.prepared()
        await service.api.create()
        await service.api.run("open('kept', 'w'); x = 1")
        await service.prepared()
        hosts = service.hosts()
        answer = await service.api.send("POST", "/api/sessions/s/fork", {"session_ids": ["a"]})
        assert answer.status == 201
        run = await service.api.run("print(x); " + WHERE, "a")
        assert (run["stdout"], service.how()) == ("1\n/workspace ['kept']\n", "copied")
        used = service.sandboxes
        await eventually(lambda: len(service.hosts()) > len(hosts))
        assert set(hosts) < set(service.hosts())
        await service.prepared()

        with monkeypatch.context() as patched:
            patched.setattr(Workspaces, "begin_copy", full)
            answer = await service.api.send("POST", "/api/sessions/s/fork", {"count": 2})
        assert answer.status == 507
        assert service.sandboxes == used == 2
        await eventually(lambda: len(named("annex")) == 1)
        assert (await service.api.run("x", "a"))["memory"] == "kept"

    io_loop.run_sync(use)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_kernel_that_does_not_answer_any_more_is_given_to_nobody(io_loop, pooled, signum):
    service = pooled()

    async def use():
        await service.prepared()
        for pid in service.hosts():
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                os.kill(process.pid, signum)
        await service.api.create()
        assert (await service.api.run("print(1)"))["stdout"] == "1\n"

    io_loop.run_sync(use)


def test_of_many_sessions_at_once_none_waits_for_the_pool_and_none_shares_a_kernel(io_loop, pooled):
    service = pooled(pool_min=2, pool_max=2)
    ids = [f"s{number}" for number in range(6)]

    async def use():
        await service.prepared(2)
        await asyncio.gather(*(service.api.create(session_id) for session_id in ids))
        await asyncio.gather(
            *(service.api.run(f"x = {session_id!r}", session_id) for session_id in ids)
        )
        runs = await asyncio.gather(
            *(service.api.run("print(x, end='')", session_id) for session_id in ids)
        )
        assert [run["stdout"] for run in runs] == ids
        started = [record.how for record in service._of("kernel_started")]
        assert sorted(started) == ["claimed"] * 2 + ["started"] * 4

    io_loop.run_sync(use)


def test_a_workspace_that_is_being_downloaded_is_not_taken_away_under_the_reader(io_loop, pooled):
    service = pooled()
    content = os.urandom(8 << 20)

    async def use():
        await service.prepared()
        await service.api.create()
        await service.api.http.put("/api/sessions/s/files/big", content=content)
        await service.api.send("POST", "/api/sessions/s/sleep")
        await service.prepared()
        async with service.api.http.stream("GET", "/api/sessions/s/archive") as archive:
            parts = archive.aiter_raw()
            await anext(parts)
            run = await service.api.run("import os; print(os.path.getsize('big'))")
            assert run["stdout"] == f"{len(content)}\n"
            assert service.how() == "started"
            async for _ in parts:
                pass
        assert archive.status_code == 200

    io_loop.run_sync(use)


def test_every_run_of_a_session_that_is_not_persistent_gets_a_fresh_kernel_that_waited(
    io_loop, pooled
):
    service = pooled()

    async def use():
        await service.api.create(persistent=False)
        for _ in range(2):
            await service.prepared()
            run = await service.api.run("open('f', 'x').write(str('x' in dir())); x = 1")
            assert run["exit_code"] == 0
            assert service.how() == "claimed"

    io_loop.run_sync(use)


def test_a_kernel_that_has_waited_for_too_long_is_replaced(io_loop, pooled):
    service = pooled(pool_age=0.5)

    async def use():
        await service.prepared()
        (first,) = service.hosts()
        await service.prepared()
        await eventually(lambda: first not in service.hosts())

    io_loop.run_sync(use)


def test_where_no_pool_is_wanted_there_is_none(io_loop, pooled):
    service = pooled(pool_max=0)

    async def use():
        await service.api.create()
        await service.api.run("1")
        assert service.how() == "started"
        assert len(service.hosts()) == 1

    io_loop.run_sync(use)


def test_nothing_of_what_waited_is_left_when_the_service_has_ended(io_loop, pooled, make_settings):
    service = pooled(pool_min=2, pool_max=2)
    spares = Path(make_settings().data_dir, "workspaces.spares")

    async def use():
        await service.prepared(2)
        await service.api.create()
        await service.api.run("1")
        await eventually(lambda: len(os.listdir(spares)) >= 1)
        await service._server.service.close()
        assert os.listdir(spares) == []
        assert service.hosts() == []

    io_loop.run_sync(use)


def test_a_service_that_ends_just_as_a_directory_is_made_for_a_kernel_leaves_none(
    io_loop, pooled, make_settings, monkeypatch
):
    begun, may_go_on = threading.Event(), threading.Event()
    make_spare = Workspaces.make_spare

    def make_slowly(self):
        begun.set()
        assert may_go_on.wait(30)
        return make_spare(self)

    monkeypatch.setattr(Workspaces, "make_spare", make_slowly)
    service = pooled()

    async def use():
        assert await asyncio.to_thread(begun.wait, 30)
        closing = asyncio.ensure_future(service._server.service.close())
        keeper = service._server.service._pool._keeper
        await eventually(lambda: keeper.done())
        may_go_on.set()
        await closing
        assert os.listdir(Path(make_settings().data_dir, "workspaces.spares")) == []
        assert service.hosts() == []

    io_loop.run_sync(use)

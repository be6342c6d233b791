"""`kernelsvc run` and `kernelsvc serve`, as processes of their own."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from httpx import AsyncClient, ConnectError, HTTPError

from kernelsvc.cli.main import main
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.named import named
from tests.support.problems import raw
from tests.support.waiting import eventually

WAIT = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int | None
    out: str
    err: str


def environment(**changes):
    """Nothing of the tests' own configuration."""
    inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith("KERNELSVC_")}
    return {**inherited, **changes}


async def start(*arguments, stdin=None, cwd=None, env=None):
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kernelsvc",
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        # A background job of a shell inherits SIGINT ignored; a command at a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env=env or environment(),
    )


async def ended(process, stdin=None, seconds=30):
    out, err = await asyncio.wait_for(process.communicate(stdin), seconds)
    return Ended(process.returncode, out.decode(), err.decode())


async def command(*arguments, stdin=None, **options):
    return await ended(await start(*arguments, stdin=stdin, **options), stdin)


@pytest.fixture
def called(monkeypatch, capsys):
    """Run the command in this process: as `command`, without a second's start of Python."""

    async def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["kernelsvc", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            await asyncio.to_thread(main)
        said = capsys.readouterr()
        return Ended(stop.value.code, said.out, said.err)

    return call


# ---- help


async def test_help_names_the_commands_and_each_explains_itself(called):
    top = await command("--help")
    serve, run = await called("serve", "--help"), await called("run", "--help")
    assert (top.status, serve.status, run.status) == (0, 0, 0)
    for name in ("serve", "run", "KERNELSVC_"):
        assert name in top.out
    for flag in ("--config", "--host", "--port", "--data-dir", "--sleep-after", "8787"):
        assert flag in serve.out
    for flag in ("--session", "--timeout", "--url", "standard input", "124", "exit code"):
        assert flag in " ".join(run.out.split())


@pytest.mark.parametrize(
    "arguments", [(), ("nothing",), ("run",), ("run", "1", "--timeout", "x"), ("serve", "--prot")]
)
async def test_a_wrong_command_line_is_2_with_usage_on_stderr(arguments, called):
    result = await called(*arguments)
    assert (result.status, result.out) == (2, "")
    assert "usage: kernelsvc" in result.err
    assert "Traceback" not in result.err


# ---- run


async def test_run_prints_what_the_code_prints_then_its_result(api, server):
    code = "import sys; print('out'); print('err', file=sys.stderr); 6 * 7"
    result = await command("run", code, "--url", server.url)
    assert result == Ended(0, "out\n42\n", "err\n")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [("pass", 0, ""), ("import sys; sys.exit(3)", 3, ""), ("1 / 0", 1, "ZeroDivisionError"),
     ("import os; os._exit(7)", 7, ""), ("import os; os.kill(os.getpid(), 9)", 137, "")],
)  # fmt: skip
async def test_run_exits_with_the_runs_exit_code(api, server, code, status, said, called):
    result = await called("run", code, "--url", server.url)
    assert result.status == status
    assert said in result.err
    assert result.out == ""


async def test_run_that_times_out_is_124_with_what_was_printed_before(api, server, called):
    code = "print('before'); import time; time.sleep(60)"
    result = await called("run", code, "--timeout", "0.5", "--url", server.url)
    assert (result.status, result.out) == (124, "before\n")
    assert "timed out" in result.err


async def test_run_reads_its_code_from_standard_input(api, server):
    code = "x = 'Grüße 💥'\nprint(x)\n".encode()
    result = await command("run", "-", "--url", server.url, stdin=code)
    assert result == Ended(0, "Grüße 💥\n", "")


async def test_run_without_a_session_leaves_nothing(api, server, tmp_path, called):
    for code in ("pass", "1 / 0", ""):
        await called("run", code, "--url", server.url)
    assert (await api.send("GET", "/api/sessions")).json["count"] == 0
    assert list((tmp_path / "data" / "workspaces").iterdir()) == []


async def test_run_in_a_session_makes_it_and_keeps_its_memory(api, server):
    arguments = ("--session", "mine", "--url", server.url)
    assert (await command("run", "x = 41", *arguments)).status == 0
    assert await command("run", "x + 1", *arguments) == Ended(0, "42\n", "")
    assert (await api.session("mine"))["run_count"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("",), "code: is empty"),
        (("1", "--timeout", "0"), "timeout: must be"),
        (("1", "--timeout", "-1"), "timeout: must be"),
        (("1", "--timeout", "4000"), "at most 3600"),
        (("1", "--timeout", "nan"), "timeout"),
        (("1", "--timeout", "inf"), "timeout"),
        (("1", "--session", "a b"), "session_id: must be"),
        (("1", "--session", "a/../b"), "session_id: must be"),
        (("1", "--language", "cobol"), "there are: python"),
    ],
)
async def test_what_the_service_refuses_is_2_with_its_message(api, server, arguments, said, called):
    result = await called("run", *arguments, "--url", server.url)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("kernelsvc: ")
    assert said in result.err
    assert "Traceback" not in result.err
    assert (await api.send("GET", "/api/sessions")).json["count"] == 0


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "127.0.0.1:1", "http://[", "ftp://127.0.0.1", "nonsense", ""]
)
async def test_a_service_that_cannot_be_reached_is_2_with_a_message(url, called):
    result = await called("run", "1", "--url", url)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("kernelsvc: ")
    assert "Traceback" not in result.err


async def test_something_else_at_the_address_is_2_with_a_message(called):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nother"
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        result = await called("run", "1", "--url", f"http://127.0.0.1:{port}")
    assert result.status == 2
    assert "404" in result.err
    assert "Traceback" not in result.err


async def test_ctrl_c_ends_the_command_without_a_trace_and_its_run(api, server):
    process = await start("run", "import time; time.sleep(60)", "--url", server.url)
    going = server.service.one_offs.live
    await eventually(lambda: [live.state for live in going.values()] == ["running"])
    process.send_signal(signal.SIGINT)
    result = await ended(process)
    # Ended by the signal itself, or as a shell would tell it.
    assert result.status in (130, -signal.SIGINT)
    assert "Traceback" not in result.err
    await eventually(lambda: not going)


# ---- serve


@dataclass
class Service:
    """A service in a process of its own."""

    process: asyncio.subprocess.Process
    url: str
    api: Api
    data: Path
    runtime: Path

    def stop(self, signum=signal.SIGTERM):
        self.process.send_signal(signum)

    async def ended(self, seconds=20):
        return await ended(self.process, seconds=seconds)

    def processes(self):
        """Everything below the service: kernel hosts, kernels, what they started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, name):
        """Those of them that are called so."""
        return named(name, psutil.Process(self.process.pid))


@pytest.fixture
def runtime():
    with tempfile.TemporaryDirectory(prefix="ks") as path:
        yield Path(path)


@pytest.fixture
def start_service(tmp_path, runtime):
    """Start `kernelsvc serve`; it is killed at the block's end if it is still there."""

    @asynccontextmanager
    async def serving(*flags, **settings):
        env = environment(
            KERNELSVC_DATA_DIR=str(tmp_path / "data"),
            KERNELSVC_RUNTIME_DIR=str(runtime),
            KERNELSVC_INTERRUPT_GRACE="1",
            KERNELSVC_TERMINATE_GRACE="1",
            **{f"KERNELSVC_{name.upper()}": str(value) for name, value in settings.items()},
        )
        process = await start("serve", "--port", "0", *flags, cwd=tmp_path, env=env)
        async with AsyncExitStack() as stack:
            stack.callback(kill_if_there, process)
            assert process.stdout is not None
            line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
            assert line.startswith("kernelsvc answers on http://127.0.0.1:"), line
            url = line.split()[-1]
            http = await stack.enter_async_context(AsyncClient(base_url=url, timeout=60))
            yield Service(process, url, Api(http), tmp_path / "data", runtime)

    return serving


def kill_if_there(process):
    if process.returncode is None:
        process.kill()


async def is_gone(processes):
    """Wait for the processes' end; what the service left to the system takes a moment."""
    await eventually(lambda: not any(alive(process) for process in processes))


def alive(process):
    # The host's parent is gone: whoever adopted it may be slow to reap it.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def running(service, session_id="s"):
    async def is_so():
        return (await service.api.session(session_id))["state"] == "running"

    await eventually(is_so)


async def test_serve_prints_its_url_works_and_stops_leaving_nothing(start_service):
    async with start_service(pool_max=0) as service:
        await service.api.create()
        run = await service.api.run("import os; print(os.environ['ERA_BASE_URL'])")
        assert run["stdout"].strip() == service.url
        processes = service.processes()
        assert len(service.named("kernel-host")) == 1
        # Its snapshot is called like it for a moment.
        await eventually(lambda: len(service.named("kernel")) == 1)
        assert len(list(service.runtime.glob("*/"))) == 1
        service.stop()
        result = await service.ended()
        assert result.status == 0
        assert result.out == ""
        assert "Traceback" not in result.err
        assert not any(map(alive, processes))
        assert list(service.runtime.glob("*/")) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_service_stops_at_once_on_either_signal(start_service, signum):
    async with start_service() as service:
        service.stop(signum)
        assert (await service.ended(seconds=5)).status == 0


async def test_a_run_that_is_going_on_gets_its_full_answer_before_the_service_stops(start_service):
    async with start_service(max_output_bytes=32_000_000) as service:
        await service.api.create()
        code = WAIT + "print('x' * 8_000_000)\nprint('end')"
        run = asyncio.create_task(service.api.run(code))
        queued = asyncio.create_task(service.api.run("print('queued too')"))
        await running(service)
        processes = service.processes()
        service.stop()
        await refused(service)
        assert service.process.returncode is None
        (service.data / "workspaces" / "s" / "go").touch()
        answer = await run
        assert answer["exit_code"] == 0
        assert len(answer["stdout"]) == 8_000_005
        assert answer["stdout"].endswith("x\nend\n")
        assert (await queued)["stdout"] == "queued too\n"
        assert (await service.ended()).status == 0
        assert not any(map(alive, processes))
        assert list(service.runtime.glob("*/")) == []


async def refused(service):
    """Returns once the service takes nothing new: no connection, or 503."""

    async def is_refused():
        async with AsyncClient(base_url=service.url) as http:
            try:
                answer = await raw(Api(http), "POST", "/api/sessions", '{"language": "python"}')
            except ConnectError:
                return True
        if answer.status_code != 503:
            assert answer.status_code == 201
            return False
        assert answer.json()["code"] == "shutting_down"
        return True

    await eventually(is_refused)


async def test_a_client_that_is_connected_is_told_that_the_service_stops(start_service):
    async with start_service() as service:
        await service.api.create()
        run = asyncio.create_task(service.api.run(WAIT))
        await running(service)
        async with connection(service.url) as (reader, writer):
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"}"), 5)).startswith(b"HTTP/1.1 200")
            service.stop()
            await refused(service)
            writer.write(b"POST /api/sessions/s/wake HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: " in answer
        (service.data / "workspaces" / "s" / "go").touch()
        assert (await run)["exit_code"] == 0
        assert (await service.ended()).status == 0


async def test_a_slow_reader_gets_the_whole_answer_of_a_run_during_the_drain(start_service):
    async with start_service(max_output_bytes=32_000_000) as service:
        await service.api.create()
        async with connection(service.url, limit=1 << 12) as (reader, writer):
            body = json.dumps({"code": WAIT + "print('x' * 8_000_000)"}).encode()
            writer.write(
                b"POST /api/sessions/s/run HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            await running(service)
            service.stop()
            await refused(service)
            (service.data / "workspaces" / "s" / "go").touch()
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            # The answer has begun, far more of it than sockets hold is still to come.
            await asyncio.sleep(0.3)
            left = int(head.lower().partition(b"content-length: ")[2].split()[0])
            assert left > 8_000_000
            answer = await asyncio.wait_for(reader.readexactly(left), 20)
            assert json.loads(answer)["exit_code"] == 0
        assert (await service.ended()).status == 0


async def test_a_run_longer_than_the_drain_is_ended_and_is_in_the_history(start_service):
    async with start_service("--drain-timeout", "0.3") as service:
        await service.api.create()
        run = asyncio.create_task(
            raw(service.api, "POST", "/api/sessions/s/run", json.dumps({"code": WAIT}))
        )
        await running(service)
        processes = service.processes()
        service.stop()
        result = await service.ended(seconds=10)
        assert result.status == 0
        assert "Traceback" not in result.err
        assert not any(map(alive, processes))
        assert list(service.runtime.glob("*/")) == []
        # Told how it ended, not just hung up on.
        answer = await run
        assert answer.status_code == 200
        assert answer.json()["exit_code"] == 130
    async with start_service() as service:
        (entry,) = (await service.api.send("GET", "/api/sessions/s/runs")).json["runs"]
        assert (entry["exit_code"], entry["status"]) == (130, "interrupted")


async def test_a_killed_service_without_a_grace_leaves_no_kernel_and_the_next_works(start_service):
    async with start_service(orphan_grace=0) as service:
        await service.api.create(data={"a": 1})
        run = await service.api.run(
            "import subprocess; x = 1\n"
            "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
            "open('file', 'w').write('content')"
        )
        going_on = asyncio.create_task(service.api.run("while True: pass"))
        await running(service)
        processes = service.processes()
        assert service.named("kernel-host")
        assert service.named("kernel")
        service.stop(signal.SIGKILL)
        await service.process.wait()
        with pytest.raises(HTTPError):
            await going_on
        await is_gone(processes)
        assert len(list(service.runtime.glob("*/"))) == 1
    async with start_service() as service:
        assert len(list(service.runtime.glob("*/"))) == 1
        session = await service.api.session()
        assert (session["state"], session["run_count"]) == ("sleeping", 1)
        found = await service.api.send("GET", f"/api/sessions/s/runs/{run['run_id']}")
        assert found.json == run
        again = await service.api.run("print('x' in globals(), open('file').read())")
        assert (again["stdout"], again["memory"]) == ("False content\n", "lost")
        assert again["data"] == {"a": 1}
        service.stop()
        assert (await service.ended()).status == 0
        assert list(service.runtime.glob("*/")) == []


async def test_a_port_in_use_is_2_with_a_message(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = await command("serve", "--port", port, "--data-dir", tmp_path / "data")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("kernelsvc: ")
    assert str(port) in result.err
    assert "Traceback" not in result.err


async def test_a_data_directory_in_use_is_2_with_a_message(start_service):
    async with start_service() as service:
        result = await command("serve", "--port", "0", "--data-dir", service.data)
        assert (result.status, result.out) == (2, "")
        assert str(service.data) in result.err
        assert "Traceback" not in result.err
        assert (await service.api.send("GET", "/health/live")).status == 200
        service.stop()
        assert (await service.ended()).status == 0


BAD_SETTINGS = [
    (("--default-timeout", "soon"), {}, "default_timeout"),
    (("--default-timeout", "0"), {}, "default_timeout"),
    (("--max-timeout", "10"), {}, "max_timeout"),
    (("--port", "99999"), {}, "port"),
    (("--config", "no/such.toml"), {}, "no/such.toml"),
    (("--config", "typo.toml"), {}, "defalt_timeout"),
    (("--config", "broken.toml"), {}, "broken.toml"),
    ((), {"KERNELSVC_SLEEP_AFTER": "soon"}, "sleep_after"),
    ((), {"KERNELSVC_MAX_OUTPUT_BYTES": "1"}, "max_output_bytes"),
    ((), {"KERNELSVC_CONFIG": "no/such.toml"}, "no/such.toml"),
    ((), {"KERNELSVC_LOG_LEVEL": "loud"}, "log_level"),
]


@pytest.mark.parametrize(("flags", "env", "named"), BAD_SETTINGS)
async def test_a_bad_setting_is_2_and_is_named(tmp_path, monkeypatch, called, flags, env, named):
    monkeypatch.chdir(tmp_path)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "typo.toml").write_text("defalt_timeout = 5\n")
    (tmp_path / "broken.toml").write_text("port = = 1\n")
    result = await called("serve", "--data-dir", tmp_path / "data", *flags)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("kernelsvc: ")
    assert named in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--host", "256.1.1.1", "256.1.1.1"),
        ("--data-dir", "/proc/nothing", "/proc/nothing"),
        ("--database-url", "nonsense", "database_url"),
        ("--database-url", "sqlite:////proc/nothing/x.db", "/proc/nothing"),
    ],
)
async def test_what_cannot_be_had_is_2_and_is_named(tmp_path, flag, value, named):
    result = await command(
        "serve", "--port", "0", "--data-dir", tmp_path / "data", flag, value, cwd=tmp_path
    )
    assert (result.status, result.out) == (2, "")
    assert "kernelsvc: " in result.err
    assert named in result.err
    assert "Traceback" not in result.err


async def test_the_log_has_one_line_a_run_with_its_ids_and_nothing_of_the_users(start_service):
    async with start_service("--log-format", "json") as service:
        await service.api.create(data={"k": "secret-data"}, env={"K": "secret-env"})
        run = await service.api.run("print('secret-' 'output'); 'secret-code'")
        await raw(service.api, "POST", "/api/sessions/s/run", '{"code": "secret-refused", "x": 1}')
        service.stop()
        result = await service.ended()
    lines = [json.loads(line) for line in result.err.splitlines()]
    (finished,) = [line for line in lines if line["event"] == "run_finished"]
    assert finished["run_id"] == run["run_id"]
    assert finished["session_id"] == "s"
    assert finished["request_id"].startswith("req_")
    assert (finished["exit_code"], finished["memory"]) == (0, "kept")
    assert {"service_started", "session_created", "service_stopped"} <= {
        line["event"] for line in lines
    }
    assert "secret" not in result.err


async def test_the_log_for_people_is_lines_of_text(start_service):
    async with start_service("--log-format", "human", "--log-level", "info") as service:
        service.stop()
        result = await service.ended()
    assert "service_started" in result.err
    assert not result.err.lstrip().startswith("{")


async def test_flags_file_and_environment_reach_the_service(start_service, tmp_path):
    (tmp_path / "x.toml").write_text('sleep_after = "7m"\nmax_timeout = 50\n')
    async with start_service("--config", tmp_path / "x.toml", "--max-timeout", "40") as service:
        session = await service.api.create(persistent=False)
        assert session["sleep_after"] == 420
        answer = await service.api.send("PATCH", "/api/sessions/s", {"default_timeout": 45})
        assert "at most 40" in answer.json["error"]
        service.stop()
        assert (await service.ended()).status == 0

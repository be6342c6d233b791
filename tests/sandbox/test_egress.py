"""The way out, used as it should be: real clients, through the proxy, to servers elsewhere."""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import zipfile

import httpx
import psutil
import pytest

from kernelsvc.errors import KernelStartFailed
from kernelsvc.kernel_host.egress import offer_listener, proxy_environment
from kernelsvc.sandbox.egress.policy import Limits, Policy
from kernelsvc.sandbox.egress_process import Egress
from tests.sandbox.conftest import read_all
from tests.support.namespaces import INTERNET, INTERNET6
from tests.support.waiting import eventually

WEB = f"http://{INTERNET}"


def test_curl_gets_a_page_and_sends_one(proxy):
    page = proxy.curl(f"{WEB}/echo?a=b", "-H", "X-Mine: 1", "-H", "Proxy-Connection: keep-alive")
    assert page.startswith("GET /echo?a=b HTTP/1.1\r\nHost: 203.0.113.7\r\n")
    assert "x-mine: 1" in page
    assert "proxy-connection" not in page.lower()
    assert page.endswith("200 000")
    sent = proxy.curl(f"{WEB}/echo", "-d", "hello")
    assert "\r\n\r\nhello" in sent


def test_curl_tunnels_by_connect_and_by_socks_to_names_and_addresses(proxy):
    for options in (["-p"], ["-x", f"socks5h://127.0.0.1:{proxy.port}"]):
        for host in (INTERNET, f"[{INTERNET6}]", "web.test"):
            page = proxy.curl(*options, "-g", f"http://{host}/echo")
            assert f"Host: {host}\r\n" in page, page
    local_lookup = ["-x", f"socks5://127.0.0.1:{proxy.port}"]
    assert "200 000" in proxy.curl(*local_lookup, f"{WEB}/echo")


def test_a_plain_request_goes_to_a_name_and_to_ipv6(proxy):
    for host in ("web.test", f"[{INTERNET6}]"):
        page = proxy.curl("-g", f"http://{host}/echo")
        assert f"Host: {host}\r\n" in page


def test_of_several_addresses_the_one_that_may_be_reached_is(proxy):
    assert "Host: several.test" in proxy.curl("http://several.test/echo")


@pytest.mark.parametrize(
    ("path", "body"),
    [("chunked", "four and 6"), ("until-close", "until close"), ("both-lengths", "four")],
)
def test_an_answer_arrives_whole_however_its_length_is_said(proxy, path, body):
    assert proxy.curl(f"{WEB}/{path}") == f"{body}\n200 000"
    assert proxy.curl("-0", f"{WEB}/{path}") == f"{body}\n200 000"


def test_a_head_request_has_no_body(proxy):
    assert "content-length" in proxy.curl("-I", f"{WEB}/files/nothing").lower()
    refused = proxy.curl("-I", "http://127.0.0.1/")
    assert "kernelsvc" in refused
    assert refused.endswith("403 000")


def test_a_large_body_goes_up_and_comes_down_unchanged(proxy, tmp_path):
    upload = tmp_path / "upload"
    upload.write_bytes(os.urandom(5_000_000))
    down = tmp_path / "down"
    # curl asks for 100 Continue before it sends so much.
    proxy.run("curl", "-sS", "-T", str(upload), "-o", str(down), f"{WEB}/echo")
    assert down.read_bytes().endswith(b"\r\n\r\n" + upload.read_bytes())


def test_an_early_answer_to_a_large_body_is_seen(proxy, tmp_path):
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(5_000_000))
    page = proxy.curl("-H", "Expect:", "-T", str(upload), f"{WEB}/early")
    assert "late\n413" in page


def test_an_answer_that_breaks_off_is_an_error_and_one_that_is_none_a_502(proxy):
    assert "transfer closed" in proxy.curl(f"{WEB}/cut") or "reset" in proxy.curl(f"{WEB}/cut")
    page = proxy.curl(f"{WEB}/nonsense")
    assert "kernelsvc: 203.0.113.7:80 did not give an HTTP answer" in page
    assert page.endswith("502 000")


def test_each_side_may_end_while_the_other_goes_on(proxy):
    with proxy.connect() as connection:
        connection.sendall(f"CONNECT {INTERNET}:7 HTTP/1.0\r\n\r\nearly".encode())
        connection.sendall(bytes(3_000_000))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).endswith(b"\r\n\r\n3000005")


def test_a_port_that_nobody_serves_and_a_name_that_nobody_has_are_a_502(proxy):
    page = proxy.curl(f"{WEB}:9/")
    assert "203.0.113.7:9 cannot be reached: connection refused" in page
    assert page.endswith("502 000")
    page = proxy.curl("http://nothing.test/")
    assert "the name nothing.test cannot be resolved" in page
    assert page.endswith("502 000")


def test_an_address_that_does_not_answer_is_a_504(start):
    proxy = start(limits=Limits(connect_seconds=0.3), allow_networks=["198.18.0.0/15"])
    # An address in the host's own network that nobody has; ARP takes longer than that.
    page = proxy.curl("http://203.0.113.99/")
    assert "203.0.113.99:80 did not answer in time" in page
    assert page.endswith("504 000")


def test_urllib_and_httpx_find_the_proxy_and_say_why_it_refused(proxy):
    code = (
        "import urllib.request, sys\n"
        f"print(urllib.request.urlopen('{WEB}/echo').status)\n"
        "try: urllib.request.urlopen('https://10.0.0.1/')\n"
        "except OSError as error: print(error)\n"
        "import httpx\n"
        f"print(httpx.get('{WEB}/echo').status_code)\n"
        "try: httpx.get('https://10.0.0.1/')\n"
        "except httpx.ProxyError as error: print(error)\n"
    )
    done = proxy.run(sys.executable, "-c", code)
    assert done.stdout.count("200\n") == 2, done.stderr
    assert done.stdout.count("10.0.0.1 is a private address, which sessions may not reach") == 2


async def test_httpx_reuses_a_tunnel_for_several_requests(proxy):
    # With its own proxy argument httpx sends plain requests in absolute form, without it CONNECT.
    async with httpx.AsyncClient(proxy=f"http://127.0.0.1:{proxy.port}") as client:
        pages = await asyncio.gather(*(client.get(f"{WEB}/echo?{n}") for n in range(20)))
    assert [page.status_code for page in pages] == [200] * 20


def test_pip_downloads_a_package(proxy, files, tmp_path):
    simple = files / "simple" / "hello"
    simple.mkdir(parents=True)
    name = "hello-1.0-py3-none-any.whl"
    with zipfile.ZipFile(simple / name, "w") as wheel:
        wheel.writestr("hello.py", "print('hello')")
        wheel.writestr("hello-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hello\n"
                       "Version: 1.0\n")  # fmt: skip
        wheel.writestr("hello-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                       "Tag: py3-none-any\n")  # fmt: skip
        wheel.writestr("hello-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256((simple / name).read_bytes()).hexdigest()
    (simple / "index.html").write_text(f'<a href="{name}#sha256={digest}">{name}</a>')
    done = proxy.run(
        sys.executable, "-m", "pip", "--isolated", "download", "-q", "--no-deps",
        "--index-url", f"{WEB}/files/simple", "--trusted-host", INTERNET,
        "--dest", str(tmp_path), "hello",
    )  # fmt: skip
    assert (tmp_path / name).is_file(), done.stderr


def test_git_clones_a_repository(proxy, files, tmp_path):
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    repository = files / "repository"
    for arguments in (
        ["init", "-q", str(repository)],
        ["-C", str(repository), *author, "commit", "-q", "--allow-empty", "-m", "first"],
        ["-C", str(repository), "update-server-info"],
    ):
        subprocess.run(["git", *arguments], check=True)
    clone = tmp_path / "clone"
    done = proxy.run("git", "clone", "-q", f"{WEB}/files/repository/.git", str(clone))
    log = subprocess.run(["git", "-C", str(clone), "log", "--format=%s"], capture_output=True)
    assert log.stdout == b"first\n", done.stderr


def test_a_sandbox_without_a_network_reaches_out_by_the_proxy_only(io_loop, networks):
    async def use():
        egress = await Egress.spawn(Policy(), prefix=networks.in_host)
        sandbox = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
                   "--unshare-net", "--unshare-pid", "--die-with-parent", "--",
                   sys.executable, "-s", "-P", "-m", "kernelsvc.kernel_host.egress",
                   str(egress.fd_for_inside)]  # fmt: skip
        script = (
            f"curl -sS -m 20 {WEB}/echo; curl -sS -m 20 --noproxy '*' {WEB}/echo || echo curl: $?"
        )
        process = await asyncio.create_subprocess_exec(
            *sandbox,
            "sh",
            "-c",
            script,
            pass_fds=[egress.fd_for_inside],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        egress.release_inside()
        output, _ = await process.communicate()
        await egress.wait_until_serving()
        await egress.close()
        return output.decode()

    output = io_loop.run_sync(use)
    assert output.count("Host: 203.0.113.7") == 1, output
    assert output.endswith("curl: 7\n"), "7 is curl's status for a connection that failed"


def test_a_proxy_that_is_closed_leaves_nothing(io_loop, start):
    proxy = start()
    process = psutil.Process(proxy.egress.pid)
    with proxy.connect() as connection:
        connection.sendall(f"CONNECT {INTERNET}:7 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        io_loop.run_sync(proxy.egress.close)
        assert read_all(connection) == b""
    assert not process.is_running()
    assert proxy.egress.ended.is_set()
    assert proxy.egress.last_words == ""
    with pytest.raises(ConnectionRefusedError):
        proxy.connect()


async def test_a_proxy_that_is_killed_is_noticed_and_refuses_the_inside(proxy):
    os.kill(proxy.egress.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        await proxy.egress.ended.wait()
    with pytest.raises(ConnectionRefusedError):
        proxy.connect()


async def test_sigterm_ends_a_proxy(proxy):
    os.kill(proxy.egress.pid, signal.SIGTERM)
    async with asyncio.timeout(10):
        await proxy.egress.ended.wait()


async def test_a_proxy_outlives_its_parent_only_while_something_holds_its_socket_open():
    code = (
        "import asyncio, subprocess, time\n"
        "from kernelsvc.sandbox.egress_process import Egress\n"
        "from kernelsvc.sandbox.egress.policy import Policy\n"
        "from kernelsvc.kernel_host.egress import offer_listener\n"
        "async def main():\n"
        "    egress = await Egress.spawn(Policy())\n"
        "    port = offer_listener(egress.fd_for_inside)\n"
        "    await egress.wait_until_serving()\n"
        "    fd = egress._control.fileno()\n"
        "    held = subprocess.Popen(['sleep', '1000'], pass_fds=[fd], stdout=subprocess.DEVNULL)\n"
        "    print(egress.pid, held.pid, port, flush=True)\n"
        "    time.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE
    )
    egress, holder, port = map(int, (await parent.stdout.readline()).split())
    try:
        parent.kill()
        await parent.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n")
        assert b" 403 " in await reader.readline()
        writer.close()
    finally:
        os.kill(holder, signal.SIGKILL)
    await eventually(lambda: not psutil.pid_exists(egress))


async def test_an_offer_of_something_else_ends_the_proxy_and_is_told():
    def offer(egress, *sockets):
        with socket.socket(fileno=os.dup(egress.fd_for_inside)) as inside:
            if sockets:
                socket.send_fds(inside, [b"\0"], [each.fileno() for each in sockets])

    with (
        socket.socket() as not_listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server(("0.0.0.0", 0)) as wide_open,
        open(os.devnull) as no_socket,
    ):
        for offered in ([not_listening], [udp], [wide_open], [no_socket], []):
            egress = await Egress.spawn(Policy())
            offer(egress, *offered)
            egress.release_inside()
            with pytest.raises(KernelStartFailed, match="no way to the internet: BadListener"):
                await egress.wait_until_serving()
            await egress.close()


async def test_a_proxy_that_was_offered_nothing_is_waited_for_no_longer_than_said():
    egress = await Egress.spawn(Policy())
    with pytest.raises(KernelStartFailed, match="not ready in time"):
        await egress.wait_until_serving(0.05)
    await egress.close()
    with pytest.raises(KernelStartFailed):
        await egress.wait_until_serving()


async def test_a_start_that_is_cancelled_leaves_nothing():
    before = len(os.listdir("/proc/self/fd"))
    children = len(psutil.Process().children())
    for turns in range(6):
        starting = asyncio.create_task(Egress.spawn(Policy()))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await starting).close()
    await eventually(lambda: len(psutil.Process().children()) == children)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before)


async def test_a_command_that_cannot_be_run_is_an_os_error():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no-such-command"):
        await Egress.spawn(Policy(), prefix=["/no-such-command"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_environment_names_the_proxy_in_all_the_ways_that_programs_look():
    environment = proxy_environment(4321)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert environment[name] == environment[name.lower()] == "http://127.0.0.1:4321"
    assert environment["NO_PROXY"] == environment["no_proxy"] == "localhost,127.0.0.1,::1"
    assert environment["NODE_USE_ENV_PROXY"] == "1"


def test_an_offer_gives_up_its_descriptors():
    ours, theirs = socket.socketpair()
    with theirs:
        before = len(os.listdir("/proc/self/fd"))
        port = offer_listener(ours.detach())
        assert len(os.listdir("/proc/self/fd")) == before - 1
        _, (listener,), _, _ = socket.recv_fds(theirs, 1, 1)
    with socket.socket(fileno=listener) as offered, socket.create_connection(("127.0.0.1", port)):
        offered.accept()[0].close()

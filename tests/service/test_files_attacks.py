"""What is tried through the files of a session: nothing outside is read or changed, ever."""

import asyncio
import os
import shutil
import threading
from urllib.parse import quote

import pytest

from tests.support.connection import connection
from tests.support.files import TRAPS, get, make_trap, paths, put, tar_gz, url
from tests.support.problems import fields_of, problem_of
from tests.support.races import swapping

SECRET = b"nobody may read this"


@pytest.fixture
def data_dir(make_settings):
    return make_settings().data_dir


@pytest.fixture
def workspace(data_dir):
    return data_dir / "workspaces" / "s"


@pytest.fixture
def outside(tmp_path):
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_bytes(SECRET)
    yield directory
    assert os.listdir(directory) == ["secret"]
    assert (directory / "secret").read_bytes() == SECRET


@pytest.fixture
def s(io_loop, api):
    io_loop.run_sync(lambda: api.create(persistent=False))


# ---- paths

BAD_PATHS = {
    "empty": "",
    "absolute": "/etc/passwd",
    "absolute, encoded": "%2Fetc%2Fpasswd",
    "up": "../secret",
    "up, encoded": "%2e%2e/secret",
    "up, encoded slash": "..%2Fsecret",
    "up within": "a/../../secret",
    "up at the end": "a/..",
    "only up": "..",
    "dot": "./a",
    "dot within": "a/./b",
    "only a dot": ".",
    "two slashes": "a//b",
    "two slashes at the end": "a//",
    "only a slash": "/",
    "up, slash at the end": "../",
    "NUL": "a%00b",
    "NUL at the end": "a.txt%00.png",
    "not UTF-8": "%ff%fe",
    "a surrogate": "%ed%a0%80",
    "overlong dots": "%c0%ae%c0%ae/secret",
    "a name of 256 bytes": "x" * 256,
    "a path of 4097 bytes": "/".join(["d" * 240] * 17) + "/x",
}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS.keys())
async def test_a_path_that_could_escape_or_is_none_is_refused(api, server, s, method, path):
    async with connection(server.url) as (reader, writer):
        line = f"{method} /api/sessions/s/files/{path} HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(f"{line}Content-Length: 1\r\nConnection: close\r\n\r\nx".encode())
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    assert answer.startswith("HTTP/1.1 400 "), answer
    assert '"field":"path"' in answer
    assert await paths(api) == []


@pytest.mark.parametrize("session_id", ["..", "%2e%2e", ".", "%ff", "s%2F..%2Fs", "a%00b"])
async def test_a_session_id_leads_nowhere_else(api, server, s, session_id):
    async with connection(server.url) as (reader, writer):
        line = f"GET /api/sessions/{session_id}/files/kernelsvc.db HTTP/1.1\r\n"
        writer.write(f"{line}Host: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    assert answer.split()[1] in ("400", "404"), answer


@pytest.mark.parametrize("path", [".session_data.json", ".session_data.json/x",
                                  ".session_data.json/"])  # fmt: skip
async def test_the_session_data_cannot_be_put_or_deleted_as_a_file(api, s, workspace, path):
    (workspace / ".session_data.json").write_text("{}")
    for method in ("PUT", "DELETE"):
        answer = await api.http.request(method, url(path), content=b"")
        problem = problem_of(answer, 400, "invalid_request")
        assert fields_of(problem) == ["path"]
        assert "data" in problem["error"]
    assert (workspace / ".session_data.json").read_text() == "{}"
    assert await paths(api) == []


# ---- what is in the way


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("trap", TRAPS)
async def test_a_trap_in_the_place_of_a_file_is_409_and_stays(
    api, s, workspace, outside, trap, method
):
    make_trap(workspace / "x", trap, outside / "secret")
    before = (workspace / "x").lstat()
    answer = await api.http.request(method, url("x"), content=b"")
    problem_of(answer, 409, "not_a_regular_file")
    assert SECRET not in answer.content
    assert (workspace / "x").lstat().st_ino == before.st_ino
    assert await paths(api) == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("trap", [trap for trap in TRAPS if trap != "directory"])
async def test_a_trap_in_the_place_of_a_directory_is_409(api, s, workspace, outside, trap, method):
    make_trap(workspace / "d", trap, outside)
    answer = await api.http.request(method, url("d/secret"), content=b"")
    problem_of(answer, 409, "not_a_regular_file")
    assert SECRET not in answer.content


async def test_symlink_to_a_host_file_is_not_served(api, s, workspace):
    (workspace / "x").symlink_to("/etc/passwd")
    (workspace / "d").symlink_to("/etc")
    for path in ("x", "d/passwd"):
        answer = await get(api, path)
        problem_of(answer, 409, "not_a_regular_file")
        assert b"root:" not in answer.content


async def test_a_link_within_the_workspace_is_not_followed_either(api, s, workspace):
    await put(api, "d/x", b"1")
    (workspace / "link").symlink_to("d")
    problem_of(await get(api, "link/x"), 409, "not_a_regular_file")
    assert await paths(api) == ["d/x"]


async def test_a_writer_that_waits_at_a_fifo_is_not_woken_by_a_get(api, s, workspace):
    os.mkfifo(workspace / "x")
    opened = threading.Event()

    def write() -> None:
        fd = os.open(workspace / "x", os.O_WRONLY)
        opened.set()
        os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    problem_of(await get(api, "x"), 409, "not_a_regular_file")
    await paths(api)
    await api.http.get("/api/sessions/s/archive")
    assert not opened.is_set()
    os.close(os.open(workspace / "x", os.O_RDONLY))
    writer.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_hard_link_to_a_file_of_another_user_is_not_served(api, s, workspace, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.write_bytes(SECRET)
    os.chown(foreign, 12345, 12345)
    os.link(foreign, workspace / "x")
    problem_of(await get(api, "x"), 409, "not_a_regular_file")
    archive = (await api.http.get("/api/sessions/s/archive")).content
    assert archive == tar_gz() or SECRET not in archive
    # It may be replaced: that takes the name away, not the content.
    await put(api, "x", b"1")
    assert foreign.read_bytes() == SECRET
    foreign.unlink()


async def test_a_hard_link_between_files_of_the_workspace_is_served(api, s, workspace):
    await put(api, "x", b"1")
    os.link(workspace / "x", workspace / "y")
    assert (await get(api, "y")).content == b"1"
    await put(api, "y", b"2")
    assert (await get(api, "x")).content == b"1"


@pytest.mark.parametrize("place", ["link", "file", "nothing"])
async def test_a_workspace_that_was_replaced_is_never_followed(api, s, workspace, outside, place):
    shutil.rmtree(workspace)
    if place == "link":
        workspace.symlink_to(outside)
    elif place == "file":
        workspace.write_bytes(b"")
    assert await paths(api) == []
    for method in ("GET", "PUT", "DELETE"):
        answer = await api.http.request(method, url("secret"), content=b"changed")
        assert answer.status_code in (404, 409), answer.text
        assert SECRET not in answer.content
    answer = await api.http.get("/api/sessions/s/archive")
    assert answer.status_code == 404
    answer = await api.http.put("/api/sessions/s/archive", content=tar_gz(("secret", b"x")))
    assert answer.status_code in (404, 409), answer.text
    assert (await api.session())["file_count"] == 0


async def test_names_and_times_that_make_no_sense_are_listed_all_the_same(api, s, workspace):
    root = os.fsencode(workspace)
    with open(root + b"/\xff\xfe", "wb") as file:
        file.write(b"1")
    await put(api, "old", b"1")
    os.utime(workspace / "old", (-(2**33), -(2**33)))
    await put(api, "new", b"1")
    os.utime(workspace / "new", (2**33, 2**33))
    assert len(await paths(api)) == 3
    assert (await get(api, "old")).content == b"1"
    assert (await get(api, "new")).content == b"1"
    answer = await api.http.get("/api/sessions/s/archive")
    assert answer.status_code == 200


# ---- races


async def test_a_directory_that_is_swapped_for_a_link_all_the_time_never_lets_anyone_out(
    api, s, workspace, outside
):
    (workspace / "d").mkdir()
    (workspace / "d" / "secret").write_bytes(b"fine")
    (workspace / "link").symlink_to(outside)
    seen = set()
    with swapping(workspace / "d", workspace / "link"):
        for number in range(150):
            read = await get(api, "d/secret")
            assert read.content == b"fine" or read.status_code in (404, 409), read.content
            seen.add(read.status_code)
            for answer in (
                await put(api, f"d/new{number}", b"x"),
                await api.http.delete(url(f"d/new{number}")),
            ):
                assert answer.status_code in (200, 404, 409), answer.text
                seen.add(answer.status_code)
            if number % 10 == 0:
                for answer in (
                    await put(api, f"d/deep{number}/x/", b""),
                    await api.http.get(url("d/")),
                    await api.http.delete(url(f"d/deep{number}/") + "?recursive=true"),
                ):
                    assert answer.status_code in (200, 404, 409), answer.text
                    assert b'"d/x' not in answer.content
                archive = await api.http.get("/api/sessions/s/archive")
                assert SECRET not in archive.content
                packed = tar_gz((f"d/packed{number}", b"x"))
                answer = await api.http.put("/api/sessions/s/archive", content=packed)
                assert answer.status_code in (200, 404, 409), answer.text
                await paths(api)
                await api.session()
    assert {200, 409} <= seen


async def test_a_session_deleted_during_an_upload_ends_it_and_leaves_nothing(
    api, server, s, data_dir
):
    async with connection(server.url) as (reader, writer):
        head = f"PUT {quote('/api/sessions/s/files/x')} HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(f"{head}Content-Length: 3000000\r\n\r\n".encode() + bytes(2_000_000))
        await writer.drain()
        staging = data_dir / "workspaces.staging"
        while not any(entry.stat().st_size for entry in staging.iterdir()):
            await asyncio.sleep(0.01)
        assert (await api.send("DELETE", "/api/sessions/s")).status == 200
        assert os.listdir(staging) == []
        await api.create(persistent=False)
        writer.write(bytes(1_000_000))
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
    assert answer.split()[1] in (b"404", b"409")
    assert await paths(api) == []
    assert os.listdir(staging) == []

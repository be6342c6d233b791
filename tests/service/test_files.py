"""Files of a session over HTTP: what goes in comes out, under conditions and in ranges."""

import asyncio
import contextlib
import os
from pathlib import Path
from urllib.parse import unquote

import pytest
from httpx import AsyncClient

from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.files import get, paths, put, url
from tests.support.problems import fields_of, problem_of
from tests.support.process import ServiceProcess
from tests.support.waiting import eventually


@pytest.fixture
def workspace(make_settings):
    return make_settings().data_dir / "workspaces" / "s"


@pytest.fixture
def staging(make_settings):
    return make_settings().data_dir / "workspaces.staging"


@pytest.fixture
def s(io_loop, api):
    io_loop.run_sync(lambda: api.create(persistent=False))


# ---- in and out


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_048_576, 5_000_001])
async def test_what_is_put_comes_back_byte_for_byte(api, s, workspace, staging, size):
    content = os.urandom(size)
    answer = await put(api, "data.bin", content)
    assert answer.status_code == 200, answer.text
    info = answer.json()
    assert info.keys() == {"path", "size", "uploaded", "modified_at"}
    assert (info["path"], info["size"]) == ("data.bin", size)
    assert info["uploaded"].endswith("Z")
    assert info["modified_at"] == info["uploaded"]
    assert (workspace / "data.bin").read_bytes() == content
    answer = await get(api, "data.bin")
    assert answer.status_code == 200
    assert answer.content == content
    assert int(answer.headers["Content-Length"]) == size
    listed = (await api.send("GET", "/api/sessions/s/files")).json
    totals = {"count": 1, "total_count": 1, "total_size_bytes": size, "truncated": False}
    assert listed == {"files": [info], **totals}
    assert os.listdir(staging) == []


async def test_a_body_of_unknown_length_is_taken(api, s):
    async def pieces():
        for number in range(100):
            yield bytes([number]) * 40_000

    answer = await api.http.put(url("x"), content=pieces())
    assert answer.status_code == 200
    assert (await get(api, "x")).content == b"".join([bytes([n]) * 40_000 for n in range(100)])


async def test_a_second_put_replaces_the_first_and_a_reader_of_the_first_keeps_it(
    api, s, workspace
):
    await put(api, "x", b"first")
    with open(workspace / "x", "rb") as reader:
        await put(api, "x", b"second, longer")
        assert reader.read() == b"first"
    assert (await get(api, "x")).content == b"second, longer"


async def test_directories_are_made_and_the_list_is_sorted_and_recursive(api, s):
    names = ["b", "a/x/c", "a/b", "Z", "a.txt", "dir/.hidden"]
    for name in names:
        assert (await put(api, name, name.encode())).status_code == 200
    assert await paths(api) == sorted(names)


@pytest.mark.parametrize(
    "name",
    ["ein Name mit Leerzeichen", "Grüße/世界/💥.txt", "a\\b", "100%", "a+b&c=d?e#f", "-rf", "~",
     " ", "...", "a\nb", "\x7f\x01", '"quoted"', "x" * 255, "/".join(["d" * 200] * 20)],
)  # fmt: skip
async def test_a_name_in_any_script_is_taken_as_it_is(api, s, name):
    answer = await put(api, name, b"content")
    assert answer.status_code == 200, answer.text
    assert answer.json()["path"] == name
    assert await paths(api) == [name]
    answer = await get(api, name)
    assert answer.content == b"content"
    disposition = answer.headers["Content-Disposition"]
    assert disposition.startswith("attachment; filename=")
    assert unquote(disposition.partition("UTF-8''")[2]) == name.rpartition("/")[2]
    answer = await api.http.delete(url(name))
    assert answer.json()["path"] == name
    assert await paths(api) == []


async def test_the_session_code_sees_what_was_put_and_its_files_can_be_got(api):
    await api.create()
    await put(api, "in/data.txt", "Grüße".encode())
    run = await api.run("text = open('in/data.txt').read()\n_ = open('out', 'w').write(text * 2)")
    assert run["exit_code"] == 0, run
    assert (await get(api, "out")).text == "GrüßeGrüße"
    assert await paths(api) == ["in/data.txt", "out"]
    assert (await api.session())["file_count"] == 2


async def test_files_of_a_sleeping_session_are_served_without_waking_it(api):
    await api.create()
    await api.send("POST", "/api/sessions/s/wake")
    await api.send("POST", "/api/sessions/s/sleep")
    await put(api, "x", b"1")
    assert (await get(api, "x")).content == b"1"
    assert await paths(api) == ["x"]
    assert (await api.session())["state"] == "sleeping"
    assert (await api.run("print(open('x').read())"))["stdout"] == "1\n"


async def test_files_are_served_during_a_run(api):
    await api.create()
    wait = "while not os.path.exists('go'): time.sleep(0.01)\nprint('went')"
    write = "file = open('log', 'w')\nfile.write('so far')\nfile.flush()\n"
    run = asyncio.create_task(api.run(f"import os, time\n{write}{wait}\nfile.write(', all')"))

    async def is_written():
        return (await get(api, "log")).content == b"so far"

    await eventually(is_written)
    await put(api, "go", b"")
    assert (await run)["stdout"] == "went\n"
    await api.run("file.close()")
    assert (await get(api, "log")).content == b"so far, all"


async def test_a_file_for_a_session_that_is_not_persistent_is_gone_with_its_next_run(api, s):
    await put(api, "x", b"1")
    assert await paths(api) == ["x"]
    assert (await api.run("import os; print(os.path.exists('x'))"))["stdout"] == "False\n"
    assert await paths(api) == []


async def test_delete_says_what_is_gone(api, s, workspace):
    await put(api, "a/b", b"1")
    answer = await api.send("DELETE", url("a/b"))
    assert answer.status == 200
    assert answer.json.keys() == {"success", "path", "deleted_at"}
    assert (answer.json["success"], answer.json["path"]) == (True, "a/b")
    assert os.listdir(workspace / "a") == []
    problem_of(await api.http.delete(url("a/b")), 404, "file_not_found")


# ---- directories


async def test_a_directory_is_made_listed_and_deleted_by_a_path_that_ends_with_a_slash(
    api, s, workspace
):
    answer = await put(api, "new/empty/", b"")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["path"], answer.json()["size"]) == ("new/empty/", 0)
    assert (workspace / "new/empty").is_dir()
    assert (await put(api, "new/empty/", b"")).status_code == 200
    for path in ("new/a", "new/b/c", "newer", "x"):
        await put(api, path, b"12")
    listed = (await get(api, "new/")).json()
    assert [file["path"] for file in listed["files"]] == ["new/a", "new/b/c"]
    assert (listed["total_count"], listed["total_size_bytes"]) == (2, 4)
    assert (await get(api, "new/empty/")).json()["files"] == []
    assert (await api.http.head(url("new/"))).status_code == 200

    problem_of(await api.http.delete(url("new/")), 409, "directory_not_empty")
    assert await paths(api) == ["new/a", "new/b/c", "newer", "x"]
    answer = await api.http.delete(url("new/empty/"))
    assert (answer.status_code, answer.json()["path"]) == (200, "new/empty/")
    answer = await api.http.delete(url("new/"), params={"recursive": "true"})
    assert answer.json()["success"] is True
    assert await paths(api) == ["newer", "x"]
    assert sorted(os.listdir(workspace)) == ["newer", "x"]


async def test_what_is_wrong_about_a_directory_is_told_and_changes_nothing(api, s, workspace):
    await put(api, "x", b"1")
    await put(api, "d/x", b"1")
    (workspace / "link").symlink_to("d")
    for name in ("nothing/", "d/nothing/"):
        for method in ("GET", "DELETE"):
            answer = await api.http.request(method, url(name))
            problem_of(answer, 404, "file_not_found")
    for name in ("x/", "link/"):
        for method in ("GET", "PUT", "DELETE"):
            query = "?recursive=true" if method == "DELETE" else ""
            answer = await api.http.request(method, url(name) + query)
            problem_of(answer, 409, "not_a_regular_file")
    refused = {
        "body": await put(api, "d/", b"1"),
        "If-Match": await put(api, "d/", b"", If_Match="*"),
        "recursive": await api.http.delete(url("x") + "?recursive=true"),
    }
    for field, answer in refused.items():
        assert fields_of(problem_of(answer, 400, "invalid_request")) == [field]
    answer = await api.http.delete(url("d/") + "?recursive=yes")
    assert fields_of(problem_of(answer, 400, "invalid_request")) == ["recursive"]
    assert await paths(api) == ["d/x", "x"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_session_that_is_not_there_is_404(api, method):
    for path in ("/files/x", "/archive", "/files"):
        answer = await api.http.request(method, f"/api/sessions/nobody{path}")
        if answer.status_code != 405:
            problem_of(answer, 404, "session_not_found")


async def test_a_file_that_is_not_there_is_404(api, s):
    for method in ("GET", "DELETE"):
        answer = await api.http.request(method, url("a/b"))
        problem = problem_of(answer, 404, "file_not_found")
        assert "'a/b'" in problem["error"]


# ---- headers


async def test_no_file_is_ever_a_page_of_ours(api, s):
    for name in ("x.html", "x.svg", "x.js", "x", "x.xml"):
        await put(api, name, b"<script>alert(1)</script>")
        headers = (await get(api, name)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Disposition"].startswith("attachment")
        assert headers["Content-Security-Policy"].startswith("sandbox")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.csv", "text/csv; charset=utf-8"), ("a.png", "image/png"),
     ("a", "application/octet-stream"), ("a.tar.gz", "application/octet-stream"),
     ("a.json", "application/json"), ("a.html", "text/html; charset=utf-8")],
)  # fmt: skip
async def test_the_content_type_is_told_from_the_name(api, s, name, kind):
    await put(api, name, b"1")
    assert (await get(api, name)).headers["Content-Type"] == kind


async def test_head_says_what_get_would(api, s):
    await put(api, "x.csv", b"12345")
    head, full = await api.http.head(url("x.csv")), await get(api, "x.csv")
    assert head.content == b""
    assert head.status_code == 200
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified"):
        assert head.headers[name] == full.headers[name]


CONTENT = bytes(range(100))


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=90-", 206, 90, 100),
        ("bytes=-10", 206, 90, 100),
        ("bytes=-1000", 206, 0, 100),
        ("bytes=50-1000", 206, 50, 100),
        ("bytes=99-99", 206, 99, 100),
        ("bytes=0-0,5-6", 200, 0, 100),
        ("bytes=9-5", 200, 0, 100),
        ("bytes=-", 200, 0, 100),
        ("lines=1-2", 200, 0, 100),
        ("bytes=" + "9" * 30 + "-", 200, 0, 100),
        ("bytes=100-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
async def test_a_range_is_answered_with_what_it_asks_for(api, s, asked, status, start, end):
    await put(api, "x", CONTENT)
    answer = await get(api, "x", Range=asked)
    assert answer.status_code == status
    if status == 416:
        problem_of(answer, 416, "range_not_satisfiable")
        assert answer.headers["Content-Range"] == "bytes */100"
        return
    assert answer.content == CONTENT[start:end]
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/100"


async def test_if_range_with_another_etag_gets_the_whole_file(api, s):
    await put(api, "x", CONTENT)
    etag = (await get(api, "x")).headers["ETag"]
    part = await get(api, "x", Range="bytes=0-4", If_Range=etag)
    assert part.content == CONTENT[:5]
    whole = await get(api, "x", Range="bytes=0-4", If_Range='"other"')
    assert (whole.status_code, whole.content) == (200, CONTENT)


async def test_an_empty_file_has_no_satisfiable_range(api, s):
    await put(api, "x", b"")
    problem_of(await get(api, "x", Range="bytes=0-"), 416, "range_not_satisfiable")


async def test_an_etag_holds_until_the_file_changes(api, s, workspace):
    await put(api, "x", b"1")
    etag = (await get(api, "x")).headers["ETag"]
    for same in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = await get(api, "x", If_None_Match=same)
        assert (answer.status_code, answer.content) == (304, b"")
    (workspace / "x").write_bytes(b"2")
    answer = await get(api, "x", If_None_Match=etag)
    assert (answer.status_code, answer.content) == (200, b"2")
    problem_of(await get(api, "x", If_Match=etag), 412, "precondition_failed")


async def test_a_put_or_delete_under_a_condition_that_does_not_hold_changes_nothing(
    api, s, staging
):
    await put(api, "x", b"1")
    etag = (await get(api, "x")).headers["ETag"]
    for header in ({"If_None_Match": "*"}, {"If_Match": '"other"'}, {"If_None_Match": etag}):
        problem_of(await put(api, "x", b"2", **header), 412, "precondition_failed")
    problem_of(await put(api, "new", b"2", If_Match="*"), 412, "precondition_failed")
    answer = await api.http.delete(url("x"), headers={"If-Match": '"other"'})
    problem_of(answer, 412, "precondition_failed")
    assert await paths(api) == ["x"]
    assert (await get(api, "x")).content == b"1"
    assert (await put(api, "x", b"2", If_Match=etag)).status_code == 200
    assert (await put(api, "new", b"2", If_None_Match="*")).status_code == 200
    assert os.listdir(staging) == []


async def test_of_two_puts_for_a_new_file_only_one_wins(api, s):
    answers = await asyncio.gather(
        *(put(api, "x", bytes([n]) * 100_000, If_None_Match="*") for n in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7


@pytest.mark.parametrize("value", ["x", '"a" "b"', "W/x", ""])
async def test_a_condition_that_is_none_is_refused(api, s, value):
    problem = problem_of(await put(api, "x", b"1", If_Match=value), 400, "invalid_request")
    assert fields_of(problem) == ["If-Match"]


async def test_a_part_cannot_be_put(api, s):
    answer = await put(api, "x", b"1", Content_Range="bytes 0-0/2")
    assert fields_of(problem_of(answer, 400, "invalid_request")) == ["Content-Range"]


# ---- replacing


async def test_who_reads_during_many_replacements_sees_whole_versions_only(api, s, workspace):
    sizes = [300_000, 1, 700_000]
    await put(api, "x", b"0" * sizes[0])
    begun, done = asyncio.Event(), asyncio.Event()

    async def replace():
        await begun.wait()
        for number in range(60):
            content = b"%d" % (number % 3) * sizes[number % 3]
            assert (await put(api, "x", content)).status_code == 200
        done.set()

    async def read(get_content):
        seen = set()
        while not done.is_set():
            content = await get_content()
            begun.set()
            seen.add((content[:1], len(content)))
            assert content == content[:1] * len(content)
        return seen

    async def over_http():
        return (await get(api, "x")).content

    async def beside_the_service():
        return await asyncio.to_thread((workspace / "x").read_bytes)

    _, *seen = await asyncio.gather(replace(), read(over_http), read(beside_the_service))
    versions = {(b"%d" % number, size) for number, size in enumerate(sizes)}
    assert all(each <= versions for each in seen)
    assert set.union(*seen) == versions


async def test_a_service_that_is_killed_within_an_upload_leaves_the_file_as_it_was(make_settings):
    data_dir = make_settings().data_dir
    staging = data_dir / "workspaces.staging"
    length = 9_000_000
    head = f"PUT {url('x')} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    with ServiceProcess(data_dir=data_dir, pool_max=0) as killed:
        async with AsyncClient(base_url=killed.url) as http:
            await Api(http).create()
            await put(Api(http), "x", b"before")
        async with connection(killed.url) as (_, writer):
            writer.write(head.encode() + bytes(length - 1))
            await eventually(lambda: any(entry.stat().st_size for entry in staging.iterdir()))
            killed.kill()
    assert os.listdir(staging)
    with ServiceProcess(data_dir=data_dir, pool_max=0) as service:
        async with AsyncClient(base_url=service.url) as http:
            assert (await get(Api(http), "x")).content == b"before"
            assert await paths(Api(http)) == ["x"]
        assert os.listdir(staging) == []


# ---- clients that go away


async def test_a_client_that_goes_away_half_way_leaves_nothing_and_changes_nothing(
    api, server, s, staging
):
    await put(api, "x", b"before")
    async with connection(server.url) as (_, writer):
        head = f"PUT {url('x')} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
        writer.write(head.encode() + bytes(3_000_000))
        await writer.drain()
        await eventually(lambda: any(entry.stat().st_size for entry in staging.iterdir()))
    await eventually(lambda: os.listdir(staging) == [])
    assert await paths(api) == ["x"]
    assert (await get(api, "x")).content == b"before"


async def test_a_client_that_stalls_within_an_upload_is_hung_up_on(make_settings, staging):
    async with (
        serving(make_settings(header_timeout=0.3)) as server,
        AsyncClient(base_url=server.url) as http,
    ):
        await Api(http).create(persistent=False)
        async with connection(server.url) as (reader, writer):
            head = f"PUT {url('x')} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1234"
            writer.write(head.encode())
            assert await asyncio.wait_for(reader.read(), 10) == b""
        await eventually(lambda: os.listdir(staging) == [])
        assert await paths(Api(http)) == []


async def test_an_upload_may_take_longer_than_the_patience_with_stalling_clients(make_settings):
    async with (
        serving(make_settings(header_timeout=0.6)) as server,
        AsyncClient(base_url=server.url) as http,
    ):
        await Api(http).create(persistent=False)

        async def slowly():
            for _ in range(8):
                await asyncio.sleep(0.15)
                yield b"x"

        answer = await http.put(url("x"), content=slowly(), headers={"Content-Length": "8"})
        assert answer.status_code == 200


async def test_a_client_that_takes_nothing_of_a_download_is_hung_up_on(make_settings):
    async with (
        serving(make_settings(header_timeout=0.3)) as server,
        AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        api = Api(http)
        await api.create(persistent=False)
        await put(api, "x", bytes(50_000_000))
        async with connection(server.url) as (reader, writer):
            writer.write(f"GET {url('x')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await eventually(lambda: "x" in open_files(server))
            await eventually(lambda: "x" not in open_files(server))
            with contextlib.suppress(ConnectionResetError):
                assert len(await reader.read()) < 50_000_000


def open_files(server):
    """The names of the files below the workspaces that this process has open."""
    root, names = str(server.service._workspaces.root), []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = descriptor.readlink()
            names += [target.name] if target.is_relative_to(root) else []
    return names


async def test_a_download_that_is_broken_off_frees_the_file(api, server, s):
    await put(api, "x", bytes(50_000_000))
    before = set(os.listdir("/proc/self/fd"))
    async with connection(server.url) as (reader, writer):
        writer.write(f"GET {url('x')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readexactly(100_000)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before))


async def test_a_file_that_shrinks_while_it_is_sent_breaks_the_connection(
    api, server, s, workspace
):
    await put(api, "x", bytes(50_000_000))
    async with connection(server.url) as (reader, writer):
        writer.write(f"GET {url('x')} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readexactly(1000)
        os.truncate(workspace / "x", 10)
        received = 1000
        while data := await asyncio.wait_for(reader.read(1 << 20), 10):
            received += len(data)
    assert received < 50_000_000

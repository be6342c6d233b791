"""Files of a session: raw bytes both ways, whole or in part, under a condition or not."""

from urllib.parse import quote

import pytest

from tests.conformance.client import problem_of

CONTENT = bytes(range(100))
NAMES = [
    "plain.txt",
    "with space.txt",
    "two\nlines",
    "tab\t",
    "Grüße",
    "世界.csv",
    "💥",
    "مرحبا",
    "a%b?c#d&e=f",
    "back\\slash",
    "'quotes\"",
    ".hidden",
    "-rf",
    "x" * 255,
]
ESCAPES = ["..", "../f", "a/../../f", "/etc/passwd", "%2e%2e%2ff", "a//b", "./f", "a/.", "a\0b"]


# ---- out and in


@pytest.mark.parametrize("size", [0, 1, 65_537, 3_000_000])
def test_what_is_put_comes_back_byte_for_byte(session, size):
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    answer = session.put("file", content)
    assert answer.status_code in (200, 201)
    assert (answer.json()["path"], answer.json()["size"]) == ("file", size)
    got = session.get("file")
    assert got.content == content
    assert int(got.headers["Content-Length"]) == size


def test_a_body_of_unknown_length_is_taken(session):
    assert session.put("chunks", (b"x" * 1000 for _ in range(100))).is_success
    assert session.get("chunks").content == b"x" * 100_000


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_in_any_script_is_taken_as_it_is(session, name):
    directory = f"d/{quote(name, safe='')}"
    assert session.put(directory, b"content").json()["path"] == f"d/{name}"
    assert session.get(directory).content == b"content"
    assert f"d/{name}" in session.paths()
    assert session.says(f"print({name!r} in __import__('os').listdir('d'))") == "True\n"
    assert session.send("DELETE", f"/files/{directory}").json()["path"] == f"d/{name}"
    assert f"d/{name}" not in session.paths()


def test_the_code_reads_what_was_put_and_its_files_can_be_got(session):
    session.put("input.bin", CONTENT)
    session.says(
        "import os; os.makedirs('out', exist_ok=True)\n"
        "_ = open('out/reversed.bin', 'wb').write(open('input.bin', 'rb').read()[::-1])"
    )
    assert session.get("out/reversed.bin").content == CONTENT[::-1]


def test_directories_are_made_and_the_list_is_of_files_with_size_and_time(make_session):
    session = make_session()
    for path in ("b", "a/b/c", "a/a"):
        session.put(path, path.encode())
    listed = session.answer("GET", "/files")
    assert [(file["path"], file["size"]) for file in listed["files"]] == [
        ("a/a", 3),
        ("a/b/c", 5),
        ("b", 1),
    ]
    assert all(file["uploaded"].endswith("Z") for file in listed["files"])
    assert listed["count"] == 3
    shown = session.show()
    assert (shown["file_count"], shown["total_size_bytes"]) == (3, 9)


def test_a_second_put_replaces_the_first(session):
    session.put("file", b"long content")
    session.put("file", b"short")
    assert session.get("file").content == b"short"


def test_files_are_served_while_the_session_runs_and_while_it_sleeps(session):
    session.put("file", b"1")
    held = session.begin_held()
    assert session.get("file").content == b"1"
    session.put("file", b"2")
    session.let_go()
    session.result(held)
    session.answer("POST", "/sleep")
    assert session.get("file").content == b"2"
    session.put("file", b"3")
    assert session.show()["state"] == "sleeping"
    assert session.says("print(open('file').read())") == "3\n"


def test_a_deleted_file_is_gone(session):
    session.put("file", b"1")
    answer = session.send("DELETE", "/files/file").json()
    assert (answer["success"], answer["path"]) == (True, "file")
    for method in ("GET", "DELETE"):
        problem_of(session.send(method, "/files/file"), 404, "file_not_found")


def test_a_directory_is_no_file(session):
    session.put("directory/file", b"1")
    for method in ("GET", "PUT", "DELETE"):
        answer = session.send(method, "/files/directory", content=b"x" if method == "PUT" else None)
        problem_of(answer, 409, "not_a_regular_file")
    problem_of(session.put("directory/file/below", b"1"), 409, "not_a_regular_file")


# ---- no way out


@pytest.mark.parametrize("path", ESCAPES, ids=repr)
def test_a_path_that_could_lead_out_is_refused(session, path):
    before = session.paths()
    encoded = path if "%" in path else quote(path, safe="").replace(".", "%2E")
    for method in ("GET", "PUT", "DELETE"):
        answer = session.send(
            method, f"/files/{encoded}", content=b"x" if method == "PUT" else None
        )
        assert answer.status_code in (400, 404), (method, answer.text)
        assert answer.json()["code"] in ("invalid_request", "file_not_found", "not_found")
    assert session.paths() == before


def test_a_link_to_a_file_of_the_machine_is_not_followed(session):
    session.says("import os; os.path.lexists('link') or os.symlink('/etc/passwd', 'link')")
    answer = session.get("link")
    assert answer.status_code in (404, 409)
    assert b"root:" not in answer.content
    session.says("os.remove('link')")


def test_the_session_data_is_no_file_to_put_or_delete(session):
    for method in ("PUT", "DELETE"):
        answer = session.send(method, "/files/.session_data.json", content=b"{}")
        assert 400 <= answer.status_code < 500


def test_a_browser_makes_no_page_of_a_file(session):
    session.put("page.html", b"<script>alert(1)</script>")
    headers = session.get("page.html").headers
    assert headers["Content-Disposition"].startswith("attachment")
    assert headers["X-Content-Type-Options"] == "nosniff"


# ---- parts


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-9", 0, 10), ("90-", 90, 100), ("-5", 95, 100), ("50-1000", 50, 100), ("99-99", 99, 100)],
)
def test_a_range_is_answered_with_what_it_asks_for(session, asked, start, end):
    session.put("hundred", CONTENT)
    answer = session.get("hundred", Range=f"bytes={asked}")
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/100"


def test_a_range_behind_the_end_is_416(session):
    session.put("hundred", CONTENT)
    answer = session.get("hundred", Range="bytes=100-")
    problem_of(answer, 416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == "bytes */100"


def test_what_is_no_range_gets_the_whole_file(session):
    session.put("hundred", CONTENT)
    for asked in ("bytes=9-0", "lines=1-2", "bytes=x"):
        answer = session.get("hundred", Range=asked)
        assert (answer.status_code, answer.content) == (200, CONTENT)


def test_head_says_what_get_would(session):
    session.put("table.csv", b"1,2")
    head, full = session.send("HEAD", "/files/table.csv"), session.get("table.csv")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Last-Modified", "Accept-Ranges"):
        assert head.headers[name] == full.headers[name]
    assert full.headers["Content-Type"].startswith("text/csv")


# ---- conditions


def test_an_etag_holds_until_the_file_changes(session):
    session.put("file", b"1")
    etag = session.get("file").headers["ETag"]
    answer = session.get("file", If_None_Match=etag)
    assert (answer.status_code, answer.content) == (304, b"")
    session.put("file", b"2")
    answer = session.get("file", If_None_Match=etag)
    assert (answer.status_code, answer.content) == (200, b"2")
    assert answer.headers["ETag"] != etag


def test_a_put_or_delete_for_a_file_that_has_changed_is_412(session):
    session.put("file", b"1")
    old = session.get("file").headers["ETag"]
    session.put("file", b"2")
    problem_of(session.put("file", b"3", If_Match=old), 412, "precondition_failed")
    answer = session.send("DELETE", "/files/file", headers={"If-Match": old})
    problem_of(answer, 412, "precondition_failed")
    assert session.get("file").content == b"2"
    now = session.get("file").headers["ETag"]
    assert session.put("file", b"3", If_Match=now).is_success
    assert session.get("file").content == b"3"


def test_a_put_for_a_new_file_only_does_not_replace_one(make_session):
    session = make_session(persistent=False)
    assert session.put("new", b"1", If_None_Match="*").is_success
    problem_of(session.put("new", b"2", If_None_Match="*"), 412, "precondition_failed")
    problem_of(session.put("other", b"1", If_Match="*"), 412, "precondition_failed")
    assert session.get("new").content == b"1"
    assert session.paths() == ["new"]

"""The workspace as a tar.gz, out and in."""

import io
import tarfile

from tests.conformance.client import problem_of
from tests.support.files import tar_gz


def archived(session):
    """The files of the session's archive."""
    answer = session.send("GET", "/archive")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read() for name, file in files.items() if file}


def put(session, content):
    return session.send(
        "PUT", "/archive", content=content, headers={"Content-Type": "application/gzip"}
    )


def test_what_goes_out_comes_in_again_elsewhere(make_session):
    session, other = make_session(data={"a": 1}), make_session(persistent=False)
    session.says(
        "import os; os.makedirs('d/e')\n"
        "for name in ('a', 'd/ü', 'd/e/x y'): open(name, 'w').write(name)\n"
        "os.symlink('/etc/passwd', 'link')"
    )
    files = {"a": b"a", "d/ü": "d/ü".encode(), "d/e/x y": b"d/e/x y"}
    assert archived(session) == files
    answer = put(other, session.send("GET", "/archive").content).json()
    assert (answer["success"], answer["file_count"], answer["total_size_bytes"]) == (True, 3, 12)
    assert archived(other) == files


def test_what_comes_in_joins_what_is_there(make_session):
    session = make_session(persistent=False)
    session.put("kept", b"1")
    session.put("replaced", b"old")
    assert put(session, tar_gz(("replaced", b"new"), ("added/file", b"2"))).is_success
    assert archived(session) == {"kept": b"1", "replaced": b"new", "added/file": b"2"}


def test_of_an_archive_that_would_lead_out_nothing_is_taken(make_session):
    session = make_session(persistent=False)
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    for bad in (("../out", b"x"), ("/etc/out", b"x"), ("a/../../out", b"x"), link):
        problem_of(put(session, tar_gz(("good", b"x"), bad)), 400, "invalid_request")
    assert session.paths() == []


def test_what_is_no_archive_is_refused(make_session):
    session = make_session(persistent=False)
    whole = tar_gz(("file", b"x" * 10_000))
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        problem_of(put(session, content), 400, "invalid_request")
    assert session.paths() == []

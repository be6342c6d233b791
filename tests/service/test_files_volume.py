"""Files and archives at volume: a gibibyte and ten thousand files, in the memory of a few."""

import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from tests.support.memory import MIB, growing_by_less_than
from tests.support.process import ServiceProcess

PIECES = 1024
MOST_GROWTH = 64 * MIB
MANY = 10_000
NEEDED = 6 << 30


@pytest.fixture(scope="module")
def data_dir():
    """In memory where there is room, so that no other test waits for the disk meanwhile."""
    in_memory = Path("/dev/shm")
    has_room = (
        in_memory.is_dir()
        and min(shutil.disk_usage(in_memory).free, psutil.virtual_memory().available) > NEEDED
    )
    with tempfile.TemporaryDirectory(dir=in_memory if has_room else None) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def service(data_dir):
    limits = {"disk": "4GiB", "file_size": "2GiB"}
    with ServiceProcess(data_dir=data_dir, limits=json.dumps(limits), pool_max=0) as process:
        yield process


@pytest.fixture
def http(service):
    """A connection, and a session of the test's own, that is gone afterwards."""
    connection = HTTPConnection(service.host, service.port, timeout=60)
    ask(connection, "POST", "/api/sessions", {"language": "python", "session_id": "s"})
    yield connection
    ask(connection, "DELETE", "/api/sessions/s")
    connection.close()


def ask(http, method, path, body=None):
    """What is answered, as JSON; asserts that all went well."""
    headers = {"Content-Type": "application/json"}
    http.request(method, path, None if body is None else json.dumps(body), headers)
    return answered(http)


def answered(http):
    response = http.getresponse()
    answer = response.read()
    assert response.status in (200, 201), answer
    return json.loads(answer)


def gibibyte() -> Iterator[bytes]:
    """Pieces of which no two are alike, though all are packed in a moment."""
    for number in range(PIECES):
        yield number.to_bytes(8, "big") + bytes(MIB - 8)


def checksum(pieces) -> tuple[int, int]:
    size = crc = 0
    for piece in pieces:
        size, crc = size + len(piece), zlib.crc32(piece, crc)
    return size, crc


def received(http, path):
    http.request("GET", path)
    response = http.getresponse()
    assert response.status == 200
    return iter(lambda: response.read(MIB), b"")


def test_a_gibibyte_goes_up_and_down_as_a_file_and_as_an_archive(http, service):
    expected = checksum(gibibyte())
    path = "/api/sessions/s/files/data/big"
    with growing_by_less_than(MOST_GROWTH, service.process.pid):
        http.request("PUT", path, gibibyte(), {"Content-Length": str(PIECES * MIB)})
        assert answered(http)["size"] == expected[0]
        assert checksum(received(http, path)) == expected
        archive = b"".join(received(http, "/api/sessions/s/archive"))
        ask(http, "DELETE", path)
        http.request("PUT", "/api/sessions/s/archive", archive)
        unpacked = answered(http)
        assert (unpacked["file_count"], unpacked["total_size_bytes"]) == (1, expected[0])
        assert checksum(received(http, path)) == expected


def test_ten_thousand_files_go_in_are_listed_and_come_out(http, service):
    names = [f"d{number % 100:02}/file {number:05} ü" for number in range(MANY)]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 9
            tar.addfile(member, io.BytesIO(b"content\r\n"))
    with growing_by_less_than(MOST_GROWTH, service.process.pid):
        http.request("PUT", "/api/sessions/s/archive", packed.getvalue())
        assert answered(http)["file_count"] == MANY
        listed = ask(http, "GET", "/api/sessions/s/files")
        assert [file["path"] for file in listed["files"]] == sorted(names)
        assert (listed["total_count"], listed["total_size_bytes"]) == (MANY, 9 * MANY)
        below = ask(http, "GET", "/api/sessions/s/files/d07/")
        assert [file["path"] for file in below["files"]] == sorted(names[7::100])
        archive = b"".join(received(http, "/api/sessions/s/archive"))
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        files = [member for member in tar if member.isreg()]
        assert sorted(member.name for member in files) == sorted(names)
        assert {member.size for member in files} == {9}


def test_the_measure_of_memory_sees_what_is_held_for_a_moment_only():
    """The negative control."""
    with (
        pytest.raises(AssertionError, match="MiB more"),
        growing_by_less_than(MOST_GROWTH, os.getpid()),
    ):
        assert len(b"x" * (MOST_GROWTH + MIB)) > 0

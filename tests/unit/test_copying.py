"""Copying a tree: what is copied, how, and what a tree that changes or tricks cannot do."""

import os
import socket
import threading
from pathlib import Path

import pytest

from kernelsvc.errors import WorkspaceFull
from kernelsvc.files.beneath import directory_by_path
from kernelsvc.files.copying import TreeCopy
from tests.support.races import swapping

UNLIMITED = 1 << 40


@pytest.fixture
def source(tmp_path):
    made = tmp_path / "source"
    made.mkdir()
    return made


@pytest.fixture
def target(tmp_path):
    made = tmp_path / "target"
    made.mkdir()
    return made


def copy(source, target, limit=UNLIMITED, check=lambda: None):
    with directory_by_path(bytes(source)) as old, directory_by_path(bytes(target)) as new:
        TreeCopy(old, new, None, os.geteuid(), {b"skipped"}, limit, check).make()


def test_files_directories_and_links_are_copied_as_they_are(source, target, tmp_path):
    (source / "a/b/c").mkdir(parents=True)
    (source / "a/b/c/program").write_text("#!/bin/sh")
    (source / "a/b/c/program").chmod(0o4751)
    os.utime(source / "a/b/c/program", ns=(5, 7))
    (source / "a/locked").mkdir()
    (source / "a/locked/file").write_text("inside")
    (source / "a/locked").chmod(0o500)
    (source / "skipped").write_text("not this")
    (tmp_path / "secret").write_text("secret")
    (source / "link").symlink_to(tmp_path / "secret")
    (source / "nowhere").symlink_to("nothing/there")
    (source / "directory").symlink_to(tmp_path)
    os.link(source / "a/b/c/program", source / "other name")
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))

    copy(source, target)

    assert sorted(os.listdir(target)) == ["a", "directory", "link", "nowhere", "other name"]
    program = target / "a/b/c/program"
    assert (program.read_text(), program.stat().st_mode & 0o7777) == ("#!/bin/sh", 0o751)
    assert program.stat().st_mtime_ns == 7
    assert program.stat().st_nlink == 1
    assert (target / "a/locked/file").read_text() == "inside"
    assert (target / "a/locked").stat().st_mode & 0o777 == 0o500
    assert (target / "link").readlink() == tmp_path / "secret"
    assert (target / "nowhere").readlink() == Path("nothing/there")
    assert (target / "directory").is_symlink()
    program.write_text("changed")
    assert (source / "a/b/c/program").read_text() == "#!/bin/sh"
    (target / "a/locked").chmod(0o700)


def test_holes_stay_holes_and_what_is_between_is_the_same(source, target):
    with open(source / "sparse", "wb") as file:
        for position in (0, 64 << 20, 200 << 20):
            file.seek(position)
            file.write(os.urandom(5000))
        file.truncate(300 << 20)
    copy(source, target)
    made = (target / "sparse").stat()
    assert made.st_size == 300 << 20
    assert made.st_blocks * 512 < 1 << 20
    with open(source / "sparse", "rb") as old, open(target / "sparse", "rb") as new:
        for position in (0, 64 << 20, 200 << 20):
            for file in (old, new):
                file.seek(position)
            assert old.read(8192) == new.read(8192)


@pytest.mark.parametrize("what", ["one file", "many empty files"])
def test_a_tree_that_is_larger_than_the_copy_may_be_is_refused(source, target, what):
    if what == "one file":
        (source / "file").write_bytes(bytes(8193))
    else:
        for number in range(3):
            (source / str(number)).touch()
    with pytest.raises(WorkspaceFull):
        copy(source, target, limit=8192)


def test_a_copy_that_is_not_wanted_any_more_ends(source, target):
    for number in range(5):
        (source / str(number)).touch()

    def check():
        if len(os.listdir(target)) == 2:
            raise LookupError

    with pytest.raises(LookupError):
        copy(source, target, check=check)
    assert len(os.listdir(target)) == 2


def test_a_link_that_takes_the_place_of_a_directory_meanwhile_is_never_followed(
    source, target, tmp_path
):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (source / "d").mkdir()
    (source / "d" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(outside)
    with swapping(source / "d", tmp_path / "link"):
        for number in range(100):
            made = target / str(number)
            made.mkdir()
            copy(source, made)
    for number in range(100):
        found = target / str(number) / "d"
        if found.is_dir() and not found.is_symlink():
            assert set(os.listdir(found)) <= {"file"}


def test_what_is_added_while_it_is_copied_ends_neither_in_an_error_nor_without_end(source, target):
    for number in range(200):
        (source / f"d{number}").mkdir()
    done = threading.Event()

    def move():
        while not done.is_set():
            for number in range(0, 200, 2):
                (source / f"d{number}").rename(source / f"d{number + 1}" / "moved")
            for number in range(0, 200, 2):
                (source / f"d{number + 1}" / "moved").rename(source / f"d{number}")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        copy(source, target)
    finally:
        done.set()
        mover.join()

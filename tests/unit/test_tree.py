"""Trees that their owner makes as unpleasant as can be: walked, measured and deleted."""

import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from kernelsvc.files import beneath, tree
from kernelsvc.files.contents import Precondition, list_files, place
from kernelsvc.files.session_data import DATA_FILE, DataFile
from kernelsvc.files.tree import delete_tree, walk
from kernelsvc.files.upload import StagedFile
from kernelsvc.files.workspace import Workspaces
from tests.support.races import exchange, swapping

DEPTH = 6000


@pytest.fixture(params=["openat2", "walk"])
def way(request, monkeypatch):
    if request.param == "walk":
        monkeypatch.setattr(beneath, "has_openat2", lambda: False)


@pytest.fixture
def workspaces(tmp_path):
    made = Workspaces(tmp_path / "workspaces")
    made.open({"s"})
    return made


@pytest.fixture
def top(workspaces):
    return workspaces.path("s")


def dig(top, depth):
    """A chain of directories with a file in each; returns the number of files."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
        os.mkdir("directory-with-a-name", dir_fd=here)
        below = os.open("directory-with-a-name", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    return depth


def trash(workspaces, tmp_path):
    return os.listdir(tmp_path / "workspaces.trash")


def test_a_tree_of_thousands_of_levels_is_measured_listed_and_deleted(
    way, workspaces, top, tmp_path
):
    files = dig(top, DEPTH)
    descriptors = os.listdir("/proc/self/fd")
    assert workspaces.usage("s") == (files, 0)
    assert workspaces.charged("s") == 2 * files * 4096
    with workspaces.directory("s") as workspace:
        listed = list_files(workspace)
    # Those with a path that can be asked for.
    assert 150 < listed.count < files
    workspaces.remove("s")
    assert not top.exists()
    assert trash(workspaces, tmp_path) == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_names_that_are_not_utf8_are_measured_and_deleted(way, workspaces, top, tmp_path):
    root = os.fsencode(top)
    (top / os.fsdecode(b"\xff")).mkdir()
    for name in (b"/\xfe", b"/\xff/\xfd\n", b"/\xff/ "):
        with open(root + name, "wb") as file:
            file.write(b"123")
    assert workspaces.usage("s") == (3, 9)
    workspaces.remove("s")
    assert trash(workspaces, tmp_path) == []


def test_a_directory_that_comes_back_under_another_is_not_confused(way, workspaces, top):
    """Directories are moved to and fro while the tree is walked; the outside is never seen."""
    outside = top.parent.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "secret").touch()
    for name in ("a", "b"):
        (top / name / "x" / "y").mkdir(parents=True)
        for number in range(50):
            (top / name / "x" / "y" / f"{number}").touch()
    (top / "b" / "z").mkdir()
    (top / "link").symlink_to(outside)
    with swapping(top / "a", top / "link"), workspaces.directory("s") as workspace:
        for number in range(300):
            if number % 3 == 0:
                exchange(top / "b" / "x", top / "b" / "z")
            names = {entry.name for entry in walk(workspace)}
            assert b"secret" not in names
            assert b"deep" not in names


def test_a_tree_whose_top_is_moved_away_on_the_way_is_left_at_once(workspaces, top, tmp_path):
    """The way up leads elsewhere then; it must not be taken."""
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret").touch()
    seen = []
    with workspaces.directory("s") as workspace:
        for entry in walk(workspace):
            seen.append(entry.name)
            if entry.name == b"file":
                (top / "a" / "b").rename(elsewhere / "b")
    assert seen == [b"a", b"b", b"file"]


def test_deleting_does_not_follow_a_directory_that_is_moved_out(
    workspaces, top, tmp_path, monkeypatch
):
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "z").touch()
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "kept").mkdir(parents=True)
    (elsewhere / "file").touch()
    unlink_files = tree._unlink_files

    def move_then_unlink(current, level):
        if level.name == b"c" and (top / "a" / "b").exists():
            (top / "a" / "b").rename(elsewhere / "b")
        return unlink_files(current, level)

    monkeypatch.setattr(tree, "_unlink_files", move_then_unlink)
    parent = os.open(top.parent, os.O_RDONLY)
    try:
        assert delete_tree(parent, b"s") == 0
    finally:
        os.close(parent)
    assert (elsewhere / "kept").is_dir()
    assert (elsewhere / "file").exists()
    assert not top.exists()


def test_what_a_thread_adds_meanwhile_neither_hangs_nor_breaks_the_removal(
    workspaces, top, tmp_path
):
    stop = threading.Event()
    here = os.open(top, os.O_RDONLY)

    def add():
        number = 0
        while not stop.is_set():
            number += 1
            try:
                os.mkdir(f"d{number}", dir_fd=here)
                os.close(os.open(f"f{number}", os.O_WRONLY | os.O_CREAT, dir_fd=here))
            except FileNotFoundError:
                return

    thread = threading.Thread(target=add)
    thread.start()
    try:
        workspaces.remove("s")
    finally:
        stop.set()
        thread.join()
        os.close(here)
    assert not top.exists()
    workspaces.open(set())
    assert trash(workspaces, tmp_path) == []


LOCKED = """
import os, sys
from pathlib import Path
from kernelsvc.files.upload import StagedFile
from kernelsvc.files.workspace import Workspaces
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
base = Path(sys.argv[1])
workspaces = Workspaces(base / "workspaces")
workspaces.open({"s"})
top = workspaces.path("s")
for mode in (0o000, 0o300, 0o400, 0o500):
    inner = top / f"{mode:o}" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    inner.chmod(mode)
    inner.parent.chmod(mode)
top.chmod(0)
assert workspaces.usage("s") == (0, 0)
workspaces.remove("s")
assert os.listdir(base / "workspaces") == []
assert os.listdir(base / "workspaces.trash") == [], os.listdir(base / "workspaces.trash")
"""


def test_directories_without_permissions_are_deleted_by_an_ordinary_user(tmp_path):
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", LOCKED, directory], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        subprocess.run(["chmod", "-R", "u+rwx", directory], check=True)


def test_what_cannot_be_deleted_is_logged_and_not_raised(workspaces, top, monkeypatch, caplog):
    (top / "a").mkdir()
    (top / "a" / "immutable").touch()
    unlink = os.unlink

    def refuse(name, **options):
        if name == b"immutable":
            raise PermissionError(1, "Operation not permitted")
        unlink(name, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    workspaces.remove("s")
    assert not top.exists()
    assert "files_not_deleted" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_another_device_is_neither_counted_nor_emptied(way, workspaces, top, tmp_path):
    (top / "mounted").mkdir()
    (top / "beside").write_bytes(b"1")
    mount = ["mount", "-t", "tmpfs", "none", str(top / "mounted")]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.xfail("this container may not mount")
    try:
        (top / "mounted" / "kept").write_bytes(b"12")
        assert workspaces.usage("s") == (1, 1)
        workspaces.remove("s")
        [doomed] = (tmp_path / "workspaces.trash").iterdir()
        assert (doomed / "mounted" / "kept").read_bytes() == b"12"
        assert not (doomed / "beside").exists()
    finally:
        for place in (top, *(tmp_path / "workspaces.trash").iterdir()):
            subprocess.run(["umount", str(place / "mounted")], capture_output=True, check=False)


# ---- whose it is


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_is_created_belongs_to_the_owner(tmp_path):
    workspaces = Workspaces(tmp_path / "workspaces", owner=(12345, 23456))
    workspaces.open({"s"})
    DataFile(workspaces.path("s"), 1000, workspaces.owner).write({"a": 1})
    staged = StagedFile(workspaces)
    staged.finish()
    place(workspaces, "s", staged.name, b"a/b/c", Precondition())
    staged.discard()
    top = workspaces.path("s")
    for path in (top, top / DATA_FILE, top / "a", top / "a/b", top / "a/b/c"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (12345, 23456), path
    assert stat.S_IMODE((top / "a/b/c").stat().st_mode) == 0o644
    assert (tmp_path / "workspaces").stat().st_uid == 0

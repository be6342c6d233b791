"""Nothing outside of a directory is opened through it; with openat2, and without."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernelsvc.errors import KernelsvcError
from kernelsvc.files import beneath
from kernelsvc.files.beneath import NotRegular, open_beneath, open_regular
from kernelsvc.files.contents import Precondition, delete_file, list_files, open_file, place
from kernelsvc.files.path import relative_path
from kernelsvc.files.upload import StagedFile
from kernelsvc.files.workspace import Workspaces
from tests.support.files import TRAPS, make_trap
from tests.support.races import swapping

SECRET = b"nobody may read this"
WAYS = ["openat2", "walk"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    if request.param == "walk":
        monkeypatch.setattr(beneath, "has_openat2", lambda: False)
    else:
        assert beneath.has_openat2(), "this kernel has no openat2: the tests need one that has"
    return request.param


@pytest.fixture
def outside(tmp_path):
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_bytes(SECRET)
    return directory


@pytest.fixture
def top(tmp_path):
    directory = tmp_path / "top"
    directory.mkdir()
    return directory


@pytest.fixture
def fd(top):
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def read(fd: int, path: bytes, owner: int | None = None) -> bytes:
    descriptor = open_regular(fd, path, os.geteuid() if owner is None else owner)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def test_a_file_at_any_depth_is_opened(way, top, fd):
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/c").write_bytes(b"1")
    assert read(fd, b"a/b/c") == b"1"


def test_the_longest_path_is_opened(way, top, fd):
    path = "/".join(["d" * 255] * 15 + ["e" * 240]) + "/" + "x" * 15
    assert len(path) == 4096
    here = os.open(top, os.O_PATH)
    for name in path.split("/")[:-1]:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("x" * 15, os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    assert read(fd, path.encode()) == b""


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.timeout(10)
def test_a_trap_is_not_opened(way, top, fd, outside, trap):
    make_trap(top / "x", trap, outside / "secret")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotRegular):
        read(fd, b"x")
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.timeout(10)
def test_no_way_leads_through_a_trap(way, top, fd, outside, trap):
    make_trap(top / "x", trap, outside)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        read(fd, b"x/secret")
    assert caught.value.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT)


def test_another_file_system_is_not_entered(way):
    root = os.open("/", os.O_PATH)
    try:
        for path in (b"proc/self/status", b"proc/self/root/etc/passwd", b"proc"):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                os.close(open_beneath(root, path, os.O_PATH))
            assert caught.value.errno in (errno.EXDEV, errno.ELOOP)
    finally:
        os.close(root)


def test_a_hard_link_is_read_only_where_its_owner_could_read_it_anyway(way, top, fd, outside):
    os.link(outside / "secret", top / "x")
    assert read(fd, b"x") == SECRET
    with pytest.raises(NotRegular):
        read(fd, b"x", owner=os.geteuid() + 1)


def test_a_file_with_one_name_is_read_whoever_owns_it(way, top, fd):
    (top / "x").write_bytes(b"1")
    assert read(fd, b"x", owner=os.geteuid() + 1) == b"1"


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_or_container_without_openat2_is_noticed(monkeypatch, error):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(beneath, "_openat2", refuse)
    assert beneath.has_openat2.__wrapped__() is False


def test_a_directory_that_is_swapped_for_a_link_never_lets_anyone_out(way, top, fd, outside):
    (top / "d").mkdir()
    (top / "d" / "secret").write_bytes(b"fine")
    (top / "link").symlink_to(outside)
    seen = []
    with swapping(top / "d", top / "link"):
        while len(seen) < 5000 or not {b"fine", None} <= set(seen):
            try:
                seen.append(read(fd, b"d/secret"))
            except OSError:
                seen.append(None)
    assert SECRET not in seen


def test_the_same_swap_lets_out_who_goes_by_path(top, outside):
    """The negative control: the race is real."""
    (top / "d").mkdir()
    (top / "d" / "secret").write_bytes(b"fine")
    (top / "link").symlink_to(outside)
    seen = set()
    with swapping(top / "d", top / "link"):
        while SECRET not in seen:
            if not (top / "d").is_symlink():
                seen.add((top / "d" / "secret").read_bytes())


# ---- any path, and anything that stands in the workspace

NAMES = ["a", "b", "c"]
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
kinds = st.sampled_from(
    ["file", "directory", "link out", "link to a file out", "link up", "link in", "FIFO"]
)


def build(top: Path, outside: Path, entries: list[tuple[str, str]]) -> None:
    for path, kind in entries:
        place_at = top / path
        if os.path.lexists(place_at) or os.path.realpath(place_at.parent) != str(place_at.parent):
            continue  # what is made here is made inside
        try:
            place_at.parent.mkdir(parents=True, exist_ok=True)
            match kind:
                case "file":
                    place_at.write_bytes(b"inside")
                case "directory":
                    place_at.mkdir()
                case "link out":
                    place_at.symlink_to(outside)
                case "link to a file out":
                    place_at.symlink_to(outside / "a")
                case "link up":
                    place_at.symlink_to("../../../..")
                case "link in":
                    place_at.symlink_to(NAMES[0])
                case "FIFO":
                    os.mkfifo(place_at)
        except OSError:
            continue


def contents(directory: Path) -> list[tuple[str, bytes]]:
    return sorted(
        (str(path.relative_to(directory)), path.read_bytes() if path.is_file() else b"")
        for path in directory.rglob("*")
    )


@pytest.mark.parametrize("way_name", WAYS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    entries=st.lists(st.tuples(paths, kinds), max_size=8),
    steps=st.lists(st.tuples(st.sampled_from(["get", "put", "delete"]), paths), max_size=8),
)
def test_whatever_stands_there_nothing_outside_is_read_or_changed(way_name, entries, steps):
    with pytest.MonkeyPatch.context() as patch:
        if way_name == "walk":
            patch.setattr(beneath, "has_openat2", lambda: False)
        base = Path(tempfile.mkdtemp()).resolve()
        try:
            attack(base, entries, steps)
        finally:
            shutil.rmtree(base)


def attack(base: Path, entries: list[tuple[str, str]], steps: list[tuple[str, str]]) -> None:
    workspaces = Workspaces(base / "workspaces")
    workspaces.open({"s"})
    outside = base / "outside"
    (outside / "b").mkdir(parents=True)
    for name in ("a", "b/a", "b/c"):
        (outside / name).write_bytes(SECRET)
    build(workspaces.path("s"), outside, entries)
    before = contents(outside)
    for action, text in steps:
        path = relative_path(text)
        try:
            match action:
                case "get":
                    file = open_file(workspaces, "s", path)
                    assert file.read(0, 100) in (b"inside", b"put")
                    file.close()
                case "put":
                    staged = StagedFile(workspaces)
                    staged.write(b"put")
                    try:
                        place(workspaces, "s", staged.name, path, Precondition())
                    finally:
                        staged.discard()
                case "delete":
                    delete_file(workspaces, "s", path, Precondition())
        except KernelsvcError:
            pass
        with workspaces.directory("s") as workspace:
            list_files(workspace)
        workspaces.usage("s")
        assert contents(outside) == before
    assert os.listdir(base / "workspaces.staging") == []
    workspaces.remove("s")
    assert contents(outside) == before
    assert os.listdir(base / "workspaces.trash") == []


@given(st.text(max_size=40) | st.text(alphabet="./a\0\\", max_size=12))
def test_a_path_that_is_taken_cannot_lead_up(text):
    try:
        path = relative_path(text)
    except KernelsvcError:
        return
    assert path.decode() == text
    assert os.path.normpath(path) == path
    assert not path.startswith((b"/", b"../"))
    assert path not in (b"", b".", b"..")

"""Workspaces: made, measured, removed; what belongs to nobody is cleared away."""

import os
import threading
import time

import pytest

from kernelsvc.files.handover import MOST_ENTRIES, Gate, NotHandedOver
from kernelsvc.files.session_data import DATA_FILE
from kernelsvc.files.workspace import Workspaces


@pytest.fixture
def workspaces(tmp_path):
    made = Workspaces(tmp_path / "workspaces")
    made.open(set())
    return made


def test_a_workspace_is_a_private_directory_named_after_its_session(workspaces, tmp_path):
    workspaces.create("user:1.x")
    assert workspaces.path("user:1.x") == tmp_path / "workspaces" / "user:1.x"
    assert workspaces.path("user:1.x").stat().st_mode & 0o777 == 0o700


def test_create_keeps_what_is_there_and_renew_does_not(workspaces):
    workspaces.create("s")
    (workspaces.path("s") / "file").touch()
    workspaces.create("s")
    assert os.listdir(workspaces.path("s")) == ["file"]
    workspaces.renew("s")
    assert os.listdir(workspaces.path("s")) == []


def test_remove_leaves_nothing_of_a_tree_and_nothing_elsewhere(workspaces, tmp_path):
    workspaces.create("s")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    root = workspaces.path("s")
    (root / "deep" / "er").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    os.mkfifo(root / "pipe")
    (root / "locked").mkdir()
    (root / "locked" / "file").touch()
    (root / "locked").chmod(0o500)
    workspaces.remove("s")
    assert not root.exists()
    assert os.listdir(tmp_path / "workspaces.trash") == []
    assert os.listdir(outside) == ["kept"]


def test_remove_of_a_link_in_the_workspaces_place_spares_its_target(workspaces, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    workspaces.path("s").symlink_to(outside)
    workspaces.remove("s")
    assert not workspaces.path("s").is_symlink()
    assert os.listdir(outside) == ["kept"]
    assert os.listdir(tmp_path / "workspaces.trash") == []


def test_remove_of_nothing_is_fine(workspaces):
    workspaces.remove("nobody")


def test_open_clears_away_what_belongs_to_no_session_and_keeps_the_rest(workspaces, tmp_path):
    for name in ("kept", "orphan"):
        workspaces.create(name)
        (workspaces.path(name) / "file").write_text(name)
    (tmp_path / "workspaces" / "stray").touch()
    (tmp_path / "workspaces.trash" / "half-gone").mkdir()
    (tmp_path / "workspaces.trash" / "half-gone" / "file").touch()
    (tmp_path / "workspaces.trash" / "stray").touch()
    workspaces.open({"kept"})
    assert os.listdir(tmp_path / "workspaces") == ["kept"]
    assert (workspaces.path("kept") / "file").read_text() == "kept"
    assert os.listdir(tmp_path / "workspaces.trash") == []


def test_open_makes_the_workspace_of_a_session_that_has_none(workspaces):
    workspaces.open({"lost"})
    assert workspaces.usage("lost") == (0, 0)
    assert workspaces.path("lost").is_dir()


# ---- usage


def test_an_empty_workspace_uses_nothing_and_so_does_none(workspaces):
    workspaces.create("s")
    assert workspaces.usage("s") == (0, 0)
    assert workspaces.usage("nobody") == (0, 0)


def test_usage_counts_files_at_any_depth_but_not_directories(workspaces):
    workspaces.create("s")
    root = workspaces.path("s")
    (root / "a" / "b").mkdir(parents=True)
    (root / "one").write_bytes(b"x" * 10)
    (root / "a" / "b" / "two").write_bytes(b"x" * 5)
    (root / "empty").touch()
    assert workspaces.usage("s") == (3, 15)


def test_usage_leaves_out_the_data_file_at_the_top_only(workspaces):
    workspaces.create("s")
    root = workspaces.path("s")
    (root / DATA_FILE).write_bytes(b"x" * 100)
    assert workspaces.usage("s") == (0, 0)
    (root / "deep").mkdir()
    (root / "deep" / DATA_FILE).write_bytes(b"x" * 7)
    assert workspaces.usage("s") == (1, 7)


def test_usage_does_not_follow_links(workspaces, tmp_path):
    workspaces.create("s")
    root = workspaces.path("s")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "big").write_bytes(b"x" * 1000)
    (root / "file").symlink_to(tmp_path / "outside" / "big")
    (root / "loop").symlink_to(root)
    (root / "dangling").symlink_to("nothing")
    count, size = workspaces.usage("s")
    assert count in (2, 3)
    assert size < 1000


def test_usage_of_a_data_file_that_is_a_link_counts_what_else_is_there(workspaces):
    workspaces.create("s")
    root = workspaces.path("s")
    (root / "big").write_bytes(b"x" * 1000)
    (root / DATA_FILE).symlink_to("big")
    assert workspaces.usage("s") == (1, 1000)


def test_usage_of_a_data_file_that_is_a_directory_counts_what_is_in_it(workspaces):
    workspaces.create("s")
    (workspaces.path("s") / DATA_FILE).mkdir()
    (workspaces.path("s") / DATA_FILE / "file").write_bytes(b"x" * 3)
    assert workspaces.usage("s") == (1, 3)


def test_a_spare_that_is_handed_over_has_all_the_files_and_the_workspace_s_name(workspaces):
    workspaces.create("s")
    path = workspaces.path("s")
    (path / "deep").mkdir()
    (path / "deep" / "file").write_text("content")
    (path / ".hidden").touch()
    (path / "link").symlink_to("nowhere")
    path.chmod(0o750)
    spare = workspaces.make_spare()
    inode = spare.stat().st_ino
    workspaces.hand_over("s", spare)
    assert path.stat().st_ino == inode
    assert path.stat().st_mode & 0o777 == 0o750
    assert sorted(os.listdir(path)) == [".hidden", "deep", "link"]
    assert (path / "deep" / "file").read_text() == "content"
    assert not spare.exists()
    workspaces.hand_over("s", workspaces.make_spare())
    assert sorted(os.listdir(path)) == [".hidden", "deep", "link"]


def test_a_workspace_that_somebody_uses_is_not_replaced(workspaces):
    workspaces.create("s")
    path, spare = workspaces.path("s"), workspaces.make_spare()
    before = path.stat().st_ino
    with workspaces.directory("s"), pytest.raises(NotHandedOver):
        workspaces.hand_over("s", spare)
    assert path.stat().st_ino == before
    workspaces.hand_over("s", spare)
    assert path.stat().st_ino != before


@pytest.mark.parametrize("trouble", ["too many files", "a file in the spare", "no spare"])
def test_a_workspace_that_cannot_be_handed_over_stays_as_it_was(workspaces, trouble):
    workspaces.create("s")
    path, spare = workspaces.path("s"), workspaces.make_spare()
    names = {"file"}
    match trouble:
        case "too many files":
            names |= {f"{number}" for number in range(MOST_ENTRIES)}
        case "a file in the spare":
            (spare / "somebody").touch()
        case "no spare":
            workspaces.drop_spare(spare)
    for name in names:
        (path / name).touch()
    before = path.stat().st_ino
    with pytest.raises(NotHandedOver):
        workspaces.hand_over("s", spare)
    assert path.stat().st_ino == before
    assert set(os.listdir(path)) == names


def test_what_a_crash_left_half_way_between_two_directories_is_put_together_again(workspaces):
    workspaces.create("s")
    path, spare = workspaces.path("s"), workspaces.make_spare()
    (path / "stayed").touch()
    (spare / "moved").touch()
    joining = path.parent.with_name("workspaces.joining")
    spare.rename(joining / "s")
    workspaces.make_spare()
    workspaces.open({"s"})
    assert sorted(os.listdir(path)) == ["moved", "stayed"]
    assert os.listdir(joining) == []
    assert os.listdir(spare.parent) == []


def test_who_wants_to_use_a_workspace_waits_while_it_is_replaced():
    gate, waited = Gate(), threading.Event()

    def use():
        with gate.using("s"):
            waited.set()

    with gate.alone("s"):
        user = threading.Thread(target=use)
        user.start()
        with gate.using("another"), pytest.raises(NotHandedOver), gate.alone("s"):
            pass
        assert not waited.wait(0.05)
    assert waited.wait(10)
    user.join()


def test_who_replaces_a_workspace_waits_for_who_is_about_to_be_done_with_it():
    gate, looks = Gate(), threading.Event()

    def look():
        with gate.using("s"):
            looks.set()
            # Long enough for the other one to begin to wait, which nothing tells of.
            time.sleep(0.01)

    user = threading.Thread(target=look)
    user.start()
    assert looks.wait(10)
    with gate.alone("s"):
        user.join()

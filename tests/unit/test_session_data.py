"""`.session_data.json`: read only when changed, and never trusted."""

import json
import os
from unittest.mock import Mock

import pytest

from kernelsvc.files import session_data
from kernelsvc.files.session_data import DATA_FILE, DataFile, DataRead
from kernelsvc.files.workspace import Workspaces


@pytest.fixture
def path(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work" / DATA_FILE


@pytest.fixture
def file(path):
    return DataFile(path.parent, max_bytes=1000)


def problem(read):
    """What is said about a file that was not taken over."""
    assert read is not None
    assert read.data is None
    assert read.problem.startswith(f"{DATA_FILE} was not taken over: ")
    return read.problem


def test_what_was_written_is_in_the_file_and_is_no_news(file, path):
    file.write({"a": ["ä", 1, None, "\ud800"]})
    assert json.loads(path.read_text()) == {"a": ["ä", 1, None, "\ud800"]}
    assert file.read_if_changed() is None
    assert not file.is_missing()


def test_the_file_is_readable_for_the_user_alone_and_nothing_else_is_left(file, path):
    file.write({})
    file.write({"a": 1})
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [DATA_FILE]


def test_what_the_code_wrote_is_read_once(file, path):
    file.write({"a": 1})
    path.write_text('{"b": 2}')
    assert file.read_if_changed() == DataRead({"b": 2})
    assert file.read_if_changed() is None


def test_a_file_of_the_same_size_and_time_written_anew_is_read(file, path):
    file.write({"a": 1})
    before = path.stat()
    path.write_text('{"a": 2}')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.read_if_changed() == DataRead({"a": 2})


def test_a_file_replaced_by_rename_is_read(file, path):
    file.write({"a": 1})
    other = path.with_name("other")
    other.write_text('{"a": 2}')
    other.replace(path)
    assert file.read_if_changed() == DataRead({"a": 2})


def test_an_unchanged_file_is_not_read_at_all(file, path, monkeypatch):
    file.write({"a": 1})
    monkeypatch.setattr(session_data, "open_regular", lambda *_: pytest.fail("it was opened"))
    assert file.read_if_changed() is None


def test_a_file_that_was_there_before_is_news(file, path):
    path.write_text('{"a": 1}')
    assert file.read_if_changed() == DataRead({"a": 1})


def test_a_file_that_is_gone_is_no_news_but_missing(file, path):
    file.write({"a": 1})
    path.unlink()
    assert file.read_if_changed() is None
    assert file.is_missing()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b"[1]", "JSON object"),
        (b"null", "JSON object"),
        (b'"x"', "JSON object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "Infinity"),
        (b'{"a": 1e999}', "inf"),
        (b'{"a": ' + b"[" * 400 + b"]" * 400 + b"}", "nested"),
        (b'{"a": "' + b"x" * 1000 + b'"}', "larger than 1000 bytes"),
    ],
)
def test_content_that_cannot_be_data_is_left_with_the_reason(file, path, content, why):
    path.write_bytes(content)
    assert why.lower() in problem(file.read_if_changed()).lower()
    assert file.read_if_changed() is None


def test_nesting_beyond_any_stack_is_left(path):
    file = DataFile(path.parent, max_bytes=1_000_000)
    path.write_bytes(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert "nested" in problem(file.read_if_changed())


def test_data_of_exactly_the_bound_is_taken(file, path):
    content = '{"a": "' + "x" * (1000 - len('{"a": ""}')) + '"}'
    path.write_text(content)
    read = file.read_if_changed()
    assert read is not None
    assert read.data == json.loads(content)


def test_a_write_that_a_kill_cuts_short_leaves_nothing_once_the_next_service_is_there(
    tmp_path, monkeypatch
):
    workspaces = Workspaces(tmp_path / "workspaces")
    workspaces.open({"s"})
    file = DataFile(workspaces.path("s"), max_bytes=1000)
    file.write({"a": 1})
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", Mock(side_effect=KeyboardInterrupt))
        killed.setattr(os, "unlink", Mock())
        with pytest.raises(KeyboardInterrupt):
            file.write({"a": 2})
    assert os.listdir(workspaces.path("s")) == [DATA_FILE]
    assert len(os.listdir(workspaces.root)) == 2
    workspaces.open({"s"})
    assert os.listdir(workspaces.root) == ["s"]
    assert json.loads((workspaces.path("s") / DATA_FILE).read_bytes()) == {"a": 1}


def make_trap(path, kind):
    path.unlink(missing_ok=True)
    match kind:
        case "link to a secret":
            secret = path.parent.parent / "secret"
            secret.write_text('{"secret": 1}')
            path.symlink_to(secret)
        case "link to itself":
            path.symlink_to(path)
        case "link to nothing":
            path.symlink_to("nothing")
        case "link to /dev/zero":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
            (path / "inside").touch()
        case "unreadable":
            os.mknod(path, 0o600 | 0o140000)


TRAPS = ["link to a secret", "link to itself", "link to nothing", "link to /dev/zero", "pipe",
         "directory", "unreadable"]  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.timeout(10)
def test_a_trap_in_place_of_the_file_is_left_and_writing_replaces_it(file, path, trap):
    file.write({"a": 1})
    make_trap(path, trap)
    assert "secret" not in problem(file.read_if_changed())
    file.write({"b": 2})
    assert not path.is_symlink()
    assert json.loads(path.read_text()) == {"b": 2}
    secret = path.parent.parent / "secret"
    assert not secret.exists() or secret.read_text() == '{"secret": 1}'
    assert file.read_if_changed() is None


def test_a_workspace_that_is_gone_is_missing_not_an_error(file, path):
    path.parent.rmdir()
    assert file.is_missing()
    assert file.read_if_changed() is None


def test_a_workspace_that_became_a_file_is_missing_not_an_error(file, path):
    path.parent.rmdir()
    path.parent.touch()
    assert file.is_missing()
    assert file.read_if_changed() is None

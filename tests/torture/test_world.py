"""The negative controls: what a service could leave on this machine is found."""

import contextlib
import subprocess

import psutil
import pytest

from tests.torture import world
from tests.torture.journal import Journal
from tests.torture.sending import Sender
from tests.torture.service import Service, groups_of
from tests.torture.torture import Plan, Torture
from tests.torture.violation import Violation

MARK = f"{world.MARK}20042004"


@pytest.fixture
def below(monkeypatch):
    """A process below which there is one more, which bears the mark; the torturer, as it were."""
    script = f"sleep {MARK} & echo; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        shell = psutil.Process(process.pid)
        (child,) = shell.children()
        monkeypatch.setattr(world, "PATIENCE", 0.1)
        monkeypatch.setattr(world, "top", lambda: shell)
        yield child
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def test_a_process_that_is_nobodys_is_found(below):
    world.check_marks([MARK])
    with pytest.raises(Violation, match=MARK):
        world.check_marks([])
    with pytest.raises(Violation, match=f"sleep {below.pid}"):
        world.check_nothing_runs()
    below.kill()
    world.check_marks([])
    world.check_nothing_runs()


def test_a_sandbox_too_many_or_too_few_is_found(below, monkeypatch):
    monkeypatch.setattr(world, "_HOST", "sleep")
    world.check_sandboxes(lambda: range(1, 2))
    for due in (0, 2):
        with pytest.raises(Violation, match=f"1 sandboxes, {due} to {due} of"):
            world.check_sandboxes(lambda due=due: range(due, due + 1))


def test_a_directory_or_control_group_that_is_left_is_found(below, tmp_path, monkeypatch):
    below.kill()
    service = Service()
    service.directory = tmp_path
    left = [service.runtime / "0badc0de", tmp_path / "scratch", tmp_path / "group"]
    kinds = ("joining", "spares", "staging", "trash")
    left += [service.data / f"workspaces.{kind}" / "left" for kind in kinds]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
    service.scratch.add(tmp_path / "scratch")
    monkeypatch.setattr(
        world, "groups_of", lambda pids: [path for path in left[2:3] if path.exists()]
    )
    world.check_nothing_is_left(service)
    for path in left:
        path.mkdir()
        with pytest.raises(Violation, match=str(path)):
            world.check_nothing_is_left(service)
        path.rmdir()
    world.check_nothing_is_left(service)


def test_a_workspace_without_a_session_and_the_reverse_are_found(tmp_path):
    service = Service()
    service.directory = tmp_path
    (service.data / "workspaces" / "s").mkdir(parents=True)
    world.check_workspaces(service, ["s"])
    for sessions in ([], ["s", "t"]):
        with pytest.raises(Violation, match="workspaces"):
            world.check_workspaces(service, sessions)


def test_a_real_service_whose_history_loses_a_run_is_found_out(monkeypatch):
    json = Sender.json

    def forgetful(self, path):
        shown = json(self, path)
        return {**shown, "runs": shown["runs"][1:]} if path.endswith("/runs") else shown

    monkeypatch.setattr(Sender, "json", forgetful)
    with Service() as service:
        with pytest.raises(Violation, match="not in the history"):
            Torture(Plan(1, 20, 0, 0), service, Journal()).run(lambda done: None)
        groups = groups_of(service.pids)
        assert all(path.name.startswith(f"kernelsvc-{service.pids[0]}-") for path in groups)
    assert groups_of(service.pids) == []

"""What may be asked of a setup, what is done for it, and what it keeps."""

import asyncio
import os

import pytest
from pydantic import ValidationError

from kernelsvc.errors import WorkspaceFull
from kernelsvc.files.workspace import Workspaces
from kernelsvc.models.setup import Setup, SetupResult, SetupStep, npm_dependencies
from kernelsvc.setup import plan as plan_module
from kernelsvc.setup.cache import DownloadCache
from kernelsvc.setup.log import cut, read_log, reason_in, unreachable
from kernelsvc.setup.plan import impossible, plan

URL = "https://example.org/wheels/x-1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["pandas>=2", "uvicorn[standard]"], ("pandas>=2", "uvicorn[standard]")),
        ([" spaced >= 1 , < 2 "], ("spaced<2,>=1",)),
        ([f"x @ {URL}"], (f"x @ {URL}",)),
        (["x; python_version > '3'"], ('x; python_version > "3"',)),
        ({"requirements": "pandas numpy"}, ("pandas", "numpy")),
        ({"requirements": "# all\n\na>=1 # one\r\nb >= 2\n  c[d]==3 e\n"},
         ("a>=1", "b>=2", "c[d]==3", "e")),
        ({"requirements": "a>=1, \\\n  <2\n"}, ("a<2,>=1",)),
        ({"requirements": f"x @ {URL}#sha256=12\n"}, (f"x @ {URL}#sha256=12",)),
        ({"requirements": ""}, ()),
    ],
)  # fmt: skip
def test_requirements_are_taken_in_all_their_forms(given, kept):
    # Older versions of `packaging` write it without the space.
    assert tuple(text.replace("x@ ", "x @ ") for text in Setup(pip=given).pip) == kept


@pytest.mark.parametrize(
    "given",
    [
        ["--index-url=https://example.org"], ["-e ."], [" -r x"], ["."], ["./x"], ["/tmp/x.whl"],
        ["x @ file:///etc/passwd"], ["x @ git+https://example.org/x"], ["x @ https://"], [""],
        ["pandas=="], ["a b"], ["a\0"], ["\ud800"], ["x" * 2000], ["x"] * 201, [1], "pandas", None,
        {"requirements": "a --hash=sha256:12"}, {"requirements": "-c x"}, {"requirements": 1},
        {"requirements": "a", "more": "b"}, {},
    ],
)  # fmt: skip
def test_what_is_no_requirement_is_refused(given):
    with pytest.raises(ValidationError) as refused:
        Setup(pip=given)
    assert [error["loc"] for error in refused.value.errors()] == [("pip",)]


def test_packages_of_npm_are_taken_by_name_and_version_only():
    package_json = '{"dependencies": {"ms": "^2.1"}, "devDependencies": {"@types/ms": "2"}}'
    assert set(Setup(npm={"packageJson": package_json}).npm) == {"ms@^2.1", "@types/ms@2"}
    kept = Setup(npm=["ms", "@types/ms@2", "a.b@>=1 <2 || 3.x", "c@latest"]).npm
    assert npm_dependencies(kept) == {
        "ms": "latest",
        "@types/ms": "2",
        "a.b": ">=1 <2 || 3.x",
        "c": "latest",
    }
    for wrong in (
        "",
        "../x",
        "file:x",
        "x@file:../y",
        "x@git+ssh://y",
        "-g",
        "x@npm:y",
        "@x",
        "x y",
    ):
        with pytest.raises(ValidationError):
            Setup(npm=[wrong])
    for wrong in ('{"dependencies": {"x": "file:.."}}', '{"dependencies": 1}', "[]", "x"):
        with pytest.raises(ValidationError):
            Setup(npm={"packageJson": wrong})


def test_modules_of_go_are_taken_from_a_list_or_a_go_mod():
    go_mod = (
        "module mine\n\ngo 1.22\n\nrequire (\n\tgithub.com/a/b v1.2.3\n\tc.d/e v0.1.0 // more\n)"
        "\nrequire f.g/h v2.0.0+incompatible\n"
    )
    kept = ("github.com/a/b@v1.2.3", "c.d/e@v0.1.0", "f.g/h@v2.0.0+incompatible")
    assert Setup(go={"goMod": go_mod}).go == Setup(go=kept).go == kept
    for wrong in ("-u", "../x", "/x", "a b", "a@b@c", ""):
        with pytest.raises(ValidationError):
            Setup(go=[wrong])


def test_commands_and_their_environment_are_bounded():
    for wrong in (["x"] * 65, ["x" * 70_000], ["\0"], "ls", [["ls"]]):
        with pytest.raises(ValidationError):
            Setup(commands=wrong)
    for envs in ({"A": "x" * 70_000}, {"ERA_X": ""}, {"A B": ""}):
        with pytest.raises(ValidationError):
            Setup(envs=envs)


def test_only_what_runs_nothing_of_others_is_apart_and_commands_come_last():
    setup = Setup(pip=["a"], npm=["b"], go=["c.d/e"], commands=["one", "two"])
    steps = plan(setup)
    assert [step.name for step in steps] == ["pip", "npm", "go", "commands.0", "commands.1"]
    apart = [attempt for step in steps for attempt in step.attempts if attempt.is_apart]
    assert [attempt.argv[-1] for attempt in apart] == ["a", plan_module._NPM_INSTALL]
    assert "--no-programs" in apart[0].argv
    assert plan(Setup()) == []


def test_what_this_service_cannot_do_is_told_by_its_field(monkeypatch):
    setup = Setup(pip=["a"], npm=["b"], go=["c.d/e"], commands=["ls"])
    monkeypatch.setattr(plan_module, "find_program", lambda name: None)
    assert [problem.field for problem in impossible(setup, internet=True)] == [
        "setup.npm",
        "setup.go",
    ]
    assert "program go" in impossible(setup, internet=True)[1].message
    monkeypatch.setattr(plan_module, "find_program", lambda name: f"/usr/bin/{name}")
    assert impossible(setup, internet=True) == []
    assert len(impossible(setup, internet=False)) == 3


def test_a_result_tells_what_failed_as_eras_clients_read_it():
    done = SetupStep(
        name="pip", command="pip install a", status="completed", exit_code=0, log="a\n"
    )
    failed = SetupStep(name="commands.0", command="ls", status="failed", exit_code=1, log="b\n")
    later = SetupStep(name="commands.1", command="rm", status="skipped")
    told = {
        "duration_ms": 1,
        "pip_packages": ["a"],
        "npm_packages": [],
        "go_modules": [],
        "commands_run": ["ls"],
    }
    result = SetupResult(success=False, steps=[done, failed, later], error="because", **told)
    shown = result.model_dump()
    assert (shown["stdout"], shown["stderr"]) == ("a\n", "b\n")
    assert shown["log"] == "$ pip install a\na\n$ ls\nb\n"
    assert SetupResult(**shown) == result
    well = SetupResult(success=True, steps=[done], **told)
    assert (well.stdout, well.stderr) == ("", "")


# ---- logs


def test_of_a_long_log_the_beginning_and_the_end_are_read(tmp_path):
    (tmp_path / "log").write_bytes(b"begin" + b"x" * 10_000 + b"\xffend")
    text = read_log(tmp_path, "log", os.geteuid(), 100)
    assert text.startswith("beginxxx")
    assert text.endswith("x\ufffdend")
    assert "[... 9909 more ...]" in text
    assert len(text) < 150
    assert read_log(tmp_path, "none", os.geteuid()) == ""
    assert cut("a" * 50 + "b" * 50, 40) == "a" * 10 + "\n[... 60 more ...]\n" + "b" * 30


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_the_code_puts_in_a_logs_place_is_not_read(tmp_path, kind):
    (tmp_path / "secret").write_text("secret")
    match kind:
        case "link":
            (tmp_path / "log").symlink_to(tmp_path / "secret")
        case "fifo":
            os.mkfifo(tmp_path / "log")
        case "directory":
            (tmp_path / "log").mkdir()
    assert read_log(tmp_path, "log", os.geteuid()) == ""


def test_the_reason_is_the_line_that_says_it_best():
    assert reason_in("fine\nERROR: first\nERROR: second\nnote: more\n") == "second"
    assert reason_in("one\ntwo\n\n") == "two"
    assert reason_in("") == ""
    retrying = "WARNING: Retrying (Retry(total={}, connect=None)) after connection broken by 'X()'"
    assert unreachable(retrying.format(0)) == "'X()'"
    assert unreachable(retrying.format(1)) is None


# ---- the cache


def write(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


def test_a_cache_that_is_too_large_loses_what_is_oldest_and_nothing_by_halves(tmp_path):
    old = tmp_path / "deno/npm/registry/@some/package/1.0.0"
    for name in ("a.js", "deep/b.js"):
        write(old / name, 400)
    write(tmp_path / "deno/npm/registry/@some/package/registry.json", 10)
    write(tmp_path / "pip/http/ab.body", 300)
    write(tmp_path / "pip/http/ab", 10)
    newest = tmp_path / "deno/npm/registry/plain/2.0.0/a.js"
    write(newest, 400)
    while newest.lstat().st_ctime <= (old / "a.js").lstat().st_ctime:
        newest.chmod(0o600)  # the clock of files is coarse
    cache = DownloadCache(tmp_path, 1000)
    assert cache.size() == 1520
    cache.trim()
    assert cache.size() <= 750
    assert newest.exists()
    assert not old.exists() or all((old / name).exists() for name in ("a.js", "deep/b.js"))
    assert (tmp_path / "pip/http/ab.body").exists() == (tmp_path / "pip/http/ab").exists()
    before = cache.size()
    cache.trim()
    assert cache.size() == before


async def test_a_cache_is_made_smaller_when_nobody_uses_it_and_newcomers_wait_for_that(tmp_path):
    cache = DownloadCache(tmp_path, 1000)
    async with cache.used():
        async with cache.used():
            write(tmp_path / "pip/http/a", 2000)
        assert cache.size() == 2000
        newcomer = asyncio.create_task(cache.used().__aenter__())
        await asyncio.sleep(0)
        assert not newcomer.done()
    await newcomer
    assert cache.size() == 0


def test_a_cache_outgrows_its_bounds_by_what_is_written_to_it(tmp_path, monkeypatch):
    cache = DownloadCache(tmp_path, 1000)
    free = [1 << 40]
    monkeypatch.setattr(
        os, "statvfs", lambda _: os.statvfs_result((1, 1, 0, 0, free[0], 0, 0, 0, 0, 0))
    )
    write(tmp_path / "a", 5000)
    assert not cache.outgrows(1000)
    free[0] -= 100 << 20
    assert cache.outgrows(1000)
    assert not cache.outgrows(1000), "nothing has been written since"
    free[0] -= 100 << 20
    assert not cache.outgrows(9000)


# ---- moving in


def test_what_was_prepared_is_moved_in_and_replaces_only_what_it_must(tmp_path):
    workspaces = Workspaces(tmp_path / "workspaces")
    workspaces.open(set())
    workspaces.create("s")
    mine, spare = workspaces.path("s"), workspaces.make_spare()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    write(mine / "packages/old.py", 1)
    write(mine / "packages/both/old.py", 1)
    (mine / "linked").symlink_to(outside)
    for path in (
        "packages/both/new.py",
        "packages/new.py",
        "linked/new.py",
        "fresh/new.py",
        "no/x",
    ):
        write(spare / path, 1)
    names = ("packages", "linked", "fresh", "missing")
    workspaces.move_in("s", spare, names, 1 << 20)
    found = {str(path.relative_to(mine)) for path in mine.rglob("*.py")}
    assert found == {
        "packages/old.py", "packages/both/new.py", "packages/new.py", "linked/new.py",
        "fresh/new.py",
    }  # fmt: skip
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (spare / "no/x").exists()
    with pytest.raises(WorkspaceFull):
        workspaces.move_in("s", spare, ("no",), 1)
    assert not (mine / "no").exists()
    workspaces.discard("s", "packages")
    workspaces.discard("s", "none")
    assert not (mine / "packages").exists()

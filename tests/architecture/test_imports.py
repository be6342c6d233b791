"""Imports point one way, and the rooms keep to themselves what is theirs: STYLE.md, executed."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "kernelsvc"

# What each room may import of ours. Whoever adds an arrow here changes the picture in STYLE.md.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "json_text": set(),
    "logs": set(),
    "metrics": set(),
    "kernel_host": set(),
    "caretaker": set(),
    "models": {"errors"},
    "settings": {"models"},
    "outputs": {"models"},
    "files": {"models", "errors"},
    "sandbox": {"models", "errors"},
    "store": {"models", "clock", "errors", "json_text"},
    "webhooks": {"store", "sandbox", "models", "clock", "errors"},
    "keys": {"store", "models", "clock", "errors"},
    "kernels": {"outputs", "sandbox", "models", "clock", "errors", "json_text", "kernel_host",
                "caretaker"},
    "setup": {"kernels", "sandbox", "files", "models", "errors"},
    "sessions": {"setup", "kernels", "files", "metrics", "outputs", "store", "models", "clock",
                 "errors"},
    "tools": {"models"},
    "proxy": {"models", "errors"},
    "api": {"sessions", "proxy", "keys", "metrics", "files", "tools", "models", "clock", "errors",
            "json_text"},
    "client": {"models", "errors"},
    "from_settings": {"api", "sessions", "setup", "kernels", "sandbox", "files", "webhooks",
                      "settings", "models", "errors"},
    "app": {"from_settings", "api", "sessions", "setup", "keys", "metrics", "kernels", "files",
            "sandbox", "store", "webhooks", "settings", "models", "errors"},
    "cli": {"client", "models", "app", "from_settings", "sandbox", "keys", "store", "settings",
            "logs", "clock", "errors"},
    "__main__": {"cli"},
}  # fmt: skip

# The files of a room that may reach further than their room.
ONLY_HERE = {
    ("cli", "app"): {"cli/serve.py"},
    ("cli", "from_settings"): {"cli/doctor.py"},
    ("cli", "sandbox"): {"cli/doctor.py"},
    ("cli", "settings"): {"cli/serve.py", "cli/keys.py"},
    ("cli", "logs"): {"cli/serve.py"},
    ("cli", "keys"): {"cli/keys.py"},
    ("cli", "store"): {"cli/keys.py"},
}
# The kernel host's wire format is what the service knows of it.
_WIRE = "kernelsvc.kernel_host.wire"
FROM_KERNEL_HOST = {
    "kernelsvc.kernel_host",
    _WIRE,
    *(f"{_WIRE}.{name}" for name in ("METADATA_KEY", "DIAL", "DIALLED")),
}

LIBRARIES = {
    "tornado": {"api", "app"},
    "jupyter_client": {"kernels", "kernel_host"},
    "ipykernel": {"kernel_host"},
    "IPython": {"kernel_host"},
    "zmq": {"kernels", "kernel_host"},
    "sqlalchemy": {"store"},
    "sqlmodel": {"store"},
    "alembic": {"store"},
    "h11": {"proxy", "sandbox", "webhooks"},
    "prometheus_client": {"metrics"},
    "httpx": {"client", "cli"},
    "pydantic_settings": {"settings"},
}

LONGEST_FILE = 400
# Runs beside the service and reads what hostile code sends: little to trust, quick to start.
EGRESS = "kernelsvc.sandbox.egress"
EGRESS_LIBRARIES = sys.stdlib_module_names | {"h11"}
# Runs in the sandbox before the user's code, perhaps with no library in reach.
INSIDE_OF_EGRESS = PACKAGE / "kernel_host" / "egress.py"
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc", "http"}


def sources() -> Iterator[Path]:
    yield from sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room that a file is in: a folder, or a file beside the folders."""
    first, *rest = path.relative_to(PACKAGE).parts
    return first if rest else Path(first).stem


def imported(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, within functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imported(path))
    return {
        name[1]
        for name in names
        if name[0] == "kernelsvc" and len(name) > 1 and name[1] in MAY_IMPORT
    } - {room_of(path)}


FILES = [pytest.param(path, id=str(path.relative_to(PACKAGE))) for path in sources()]


def test_every_room_is_in_the_table():
    rooms = {room_of(path) for path in sources()} - {"__init__"}
    assert rooms == MAY_IMPORT.keys()


def test_the_table_has_no_circle() -> None:
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        free = [room for room in MAY_IMPORT if room not in order and MAY_IMPORT[room] <= {*order}]
        assert free, f"a circle among {MAY_IMPORT.keys() - {*order}}"
        order += free


@pytest.mark.parametrize("path", FILES)
def test_a_file_imports_only_what_its_room_may(path):
    if room_of(path) == "__init__":
        assert rooms_imported(path) == set()
        return
    wrong = rooms_imported(path) - MAY_IMPORT[room_of(path)]
    assert not wrong, f"{room_of(path)} must not import {', '.join(sorted(wrong))}"
    for room in rooms_imported(path):
        only = ONLY_HERE.get((room_of(path), room))
        inside = path.relative_to(PACKAGE).as_posix()
        assert only is None or inside in only, f"only {only} may import {room}"


@pytest.mark.parametrize("path", FILES)
def test_of_the_kernel_host_the_service_knows_its_wire_format_only(path):
    if room_of(path) != "kernel_host":
        modules = {name for name in imported(path) if name.startswith("kernelsvc.kernel_host")}
        assert modules <= FROM_KERNEL_HOST


@pytest.mark.parametrize("path", FILES)
def test_a_library_is_imported_in_its_rooms_only(path):
    for name in imported(path):
        rooms = LIBRARIES.get(name.split(".")[0])
        assert rooms is None or room_of(path) in rooms, f"{name} in {room_of(path)}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "sandbox" / "egress").rglob("*.py")))
def test_a_sessions_proxy_imports_nothing_but_itself_h11_and_the_standard_library(path):
    for name in imported(path):
        is_itself = name == EGRESS or name.startswith(f"{EGRESS}.")
        assert is_itself or name.split(".")[0] in EGRESS_LIBRARIES, name


def test_what_offers_the_proxy_its_listener_imports_the_standard_library_only():
    for name in imported(INSIDE_OF_EGRESS):
        assert name.split(".")[0] in sys.stdlib_module_names, name


@pytest.mark.parametrize("path", FILES)
def test_a_file_can_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", FILES)
def test_a_file_says_what_is_in_it(path):
    names = {part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts}
    assert not names & NO_NAMES
    if "versions" not in names:
        assert ast.get_docstring(ast.parse(path.read_text()))


def test_nothing_of_production_knows_about_tests():
    for path in sources():
        assert not [name for name in imported(path) if name.split(".")[0] in ("tests", "pytest")]


def test_the_checks_see_what_they_look_for(tmp_path):
    """The negative control: a file with every forbidden import is found out."""
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import tornado.web\n"
        "def f():\n"
        "    from kernelsvc import api\n"
        "    from kernelsvc.sessions.live import LiveSession\n"
    )
    found = set(imported(bad))
    assert {"tornado.web", "kernelsvc.api", "kernelsvc.sessions.live"} <= found

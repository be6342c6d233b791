"""What a sandbox is made of, what works inside, and what the service does where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from kernelsvc.app import serving
from kernelsvc.errors import CannotStart
from kernelsvc.sandbox import bwrap, doctor
from kernelsvc.sandbox.bwrap import Place
from kernelsvc.sandbox.doctor import Verdict
from kernelsvc.sandbox.policy import SandboxPolicy
from tests.support.api import Api

WORKS_INSIDE = {
    "numpy": "import numpy; print(numpy.linalg.inv(numpy.eye(3)).sum())",
    "pandas": "import pandas; print(pandas.DataFrame({'a': [1, 2]}).a.sum())",
    "matplotlib": (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('f.png')\nplt.show()\n"
        "print(open('f.png', 'rb').read(4))"),
    "subprocess": "import subprocess; print(subprocess.check_output(['uname', '-n'], text=True))",
    "a shell": "import os; assert os.system('ls /usr | wc -l; date; id; git --version') == 0",
    "multiprocessing": (
        "import multiprocessing as m\n"
        "with m.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))\n"
        "with m.get_context('spawn').Pool(2) as pool: print(pool.map(abs, [-1, -2]))"),
    "sqlite3": (
        "import sqlite3\n"
        "db = sqlite3.connect('x.db')\n"
        "_ = db.execute('create table t (x)'); _ = db.execute('insert into t values (1)')\n"
        "db.commit(); print(db.execute('select * from t').fetchall())"),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "print(sum(ThreadPoolExecutor(4).map(abs, range(10))))"),
    "its own loopback": (
        "import http.server, threading, urllib.request\n"
        "s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), "
        "http.server.SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=s.serve_forever, daemon=True).start()\n"
        "print(urllib.request.urlopen(f'http://127.0.0.1:{s.server_port}/').status)"),
    "temporary files": "import tempfile; print(tempfile.NamedTemporaryFile().name)",
    "time zones": "import zoneinfo; print(zoneinfo.ZoneInfo('Europe/Berlin'))",
    "its user": "import getpass, os; print(getpass.getuser(), os.path.expanduser('~'))",
}  # fmt: skip


@pytest.mark.parametrize("what", WORKS_INSIDE)
async def test_this_works_inside(api, what):
    await api.create()
    run = await api.run(WORKS_INSIDE[what], timeout=60)
    assert run["exit_code"] == 0, run["stderr"]


VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
MODULES = f"/workspace/.packages/lib/python{VERSION}/site-packages"
PACKAGE = """
import pathlib, subprocess, sys
pathlib.Path("pyproject.toml").write_text('''
[project]
name = "made-inside"
version = "1"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
''')
pathlib.Path("backend.py").write_text('''
import zipfile
def build_wheel(directory, config=None, metadata=None):
    name = "made_inside-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("made_inside.py", "answer = 42")
        wheel.writestr("made_inside-1.dist-info/METADATA", "Metadata-Version: 2.1\\\\nName: made-inside\\\\nVersion: 1\\\\n")
        wheel.writestr("made_inside-1.dist-info/WHEEL", "Wheel-Version: 1.0\\\\nTag: py3-none-any\\\\n")
        wheel.writestr("made_inside-1.dist-info/RECORD", "")
    return name
''')
subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "."], check=True)
import made_inside
print(made_inside.answer, made_inside.__file__)
"""  # noqa: E501


async def test_pip_installs_into_the_session_and_the_next_kernel_finds_it(api):
    await api.create()
    run = await api.run(PACKAGE, timeout=90)
    assert run["stdout"] == f"42 {MODULES}/made_inside.py\n", run["stderr"]
    await api.send("POST", "/api/sessions/s/restart")
    assert (await api.run("import made_inside; made_inside.answer"))["text"] == "42"


async def test_a_session_without_internet_has_no_way_out_and_one_with_it_has_a_proxy(api):
    await api.create("closed")
    await api.create("open", allowInternetAccess=True)
    proxies = "import os; sorted(name for name in os.environ if name.lower() == 'https_proxy')"
    assert (await api.run(proxies, "closed"))["text"] == "[]"
    assert (await api.run(proxies, "open"))["text"] == "['HTTPS_PROXY', 'https_proxy']"
    ask = (
        "import os, urllib.request, urllib.error\n"
        "proxy = urllib.request.ProxyHandler({'http': os.environ['HTTP_PROXY']})\n"
        "try:\n    urllib.request.build_opener(proxy).open('http://169.254.169.254/', timeout=9)\n"
        "except urllib.error.HTTPError as error:\n    print(error.code, error.read().decode())"
    )
    run = await api.run(ask, "open")
    assert run["stdout"].startswith("403 kernelsvc: 169.254.169.254 is a link-local"), run


async def test_a_change_of_network_access_applies_with_the_next_kernel_and_says_so(api):
    await api.create()
    await api.run("1")
    change = {"allowInternetAccess": True}
    answer = await api.send("PATCH", "/api/sessions/s", change)
    assert "next starts a kernel" in answer.json["note"]
    look = "import os; 'HTTPS_PROXY' in os.environ"
    assert (await api.run(look))["text"] == "False"
    await api.send("POST", "/api/sessions/s/restart")
    assert (await api.run(look))["text"] == "True"
    await api.send("PATCH", "/api/sessions/s", {"allowInternetAccess": False})
    await api.send("POST", "/api/sessions/s/restart")
    assert (await api.run(look))["text"] == "False"


async def test_the_configuration_says_what_holds_for_sessions_that_say_nothing_of_it(make_settings):
    async with (
        serving(make_settings(internet_by_default=True)) as service,
        httpx.AsyncClient(base_url=service.url, timeout=60) as http,
    ):
        api = Api(http)
        assert (await api.create())["allowInternetAccess"] is True
        assert (await api.create("without", allowInternetAccess=False))[
            "allowInternetAccess"
        ] is False
        for value, holds in ((False, False), (None, True)):
            answer = await api.send("PATCH", "/api/sessions/s", {"allowInternetAccess": value})
            assert answer.json["session"]["allowInternetAccess"] is holds


def test_the_sandbox_is_what_it_was():
    """Whoever changes what is mounted, shared or dropped changes this list, too."""
    policy = SandboxPolicy(readable=(), tmp_bytes=2, shm_bytes=1, host_id=None)
    command = bwrap.command(policy, Place(Path("/w"), Path("/r")), 9)
    flags = command[: command.index("--ro-bind")]
    assert flags == [
        *("bwrap", "--unshare-all", "--new-session", "--as-pid-1"),
        *("--hostname", "sandbox", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"),
        *("--add-seccomp-fd", "9"),
    ]
    binds = [command[i + 1 : i + 3] for i, flag in enumerate(command) if flag == "--bind"]
    assert binds == [["/w", "/workspace"], ["/r", "/run/kernel"]]
    assert "--dev-bind" not in command
    assert "--share-net" not in command
    shown = {
        command[i + 1]
        for i, flag in enumerate(command)
        if flag in ("--ro-bind", "--ro-bind-try") and not command[i + 1].startswith("/etc/")
    }
    own_etc = {f"{bwrap._OWN_ETC}/{name}" for name in ("passwd", "group", "hosts", "nsswitch.conf")}
    libraries = {
        f"/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
        if not Path("/", name).is_symlink()
    }  # fmt: skip
    assert shown - own_etc - libraries == {"/usr", "/proc/sys", "/dev/null"}


def test_as_root_the_sandbox_is_made_by_an_unprivileged_user():
    policy = SandboxPolicy(readable=(), tmp_bytes=2, shm_bytes=1, host_id=60878)
    command = bwrap.command(policy, Place(Path("/w"), Path("/r")), 9)
    assert command.count("bwrap") == 2
    between = command[command.index("setpriv") : command.index("bwrap", 1)]
    assert between == [
        *("setpriv", "--reuid", "60878", "--regid", "60878", "--clear-groups"),
        *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"),
    ]


# ---- where there is no sandbox


@pytest.fixture
def no_bubblewrap(tmp_path, monkeypatch):
    """A PATH on which everything but bubblewrap is."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("setpriv", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(programs))


def doctor_says(*flags):
    command = [sys.executable, "-m", "kernelsvc", "doctor", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def test_doctor_says_that_the_sandbox_holds():
    status, said = doctor_says()
    assert status == 0, said
    assert said.splitlines()[-1] == "Kernels are sandboxed."
    assert "ok      sandbox" in said


@pytest.mark.usefixtures("no_bubblewrap")
def test_doctor_says_what_is_missing_and_how_to_mend_it():
    status, said = doctor_says()
    assert status == 1
    assert "missing bwrap" in said
    assert "apt-get install bubblewrap" in said
    assert "NOT be sandboxed" in said


@pytest.mark.usefixtures("no_bubblewrap")
async def test_without_bubblewrap_loopback_is_served_with_a_loud_warning(make_settings, caplog):
    async with serving(make_settings()):
        (warning,) = [record for record in caplog.records if record.msg == "NO_SANDBOX"]
        assert "apt-get install bubblewrap" in warning.why


@pytest.mark.usefixtures("no_bubblewrap")
async def test_without_bubblewrap_other_addresses_are_refused_unless_allowed(make_settings):
    beyond = {"host": "0.0.0.0", "api_key": "k" * 40}
    with pytest.raises(CannotStart, match="allow-unsandboxed"):
        async with serving(make_settings(**beyond)):
            pass
    async with serving(make_settings(**beyond, allow_unsandboxed=True)):
        pass


def test_a_machine_without_user_namespaces_is_told_so(monkeypatch):
    """What bubblewrap says there, as a filter on unshare and clone makes it say."""
    settings = {"/proc/sys/user/max_user_namespaces": "0"}
    monkeypatch.setattr(doctor, "_setting", settings.get)
    assert doctor._mend("No space left on device") == "sysctl user.max_user_namespaces=15000"


def test_an_examination_tells_of_limits_whether_there_are_control_groups():
    options = doctor.SandboxOptions(True, 1 << 20, 1 << 20, 60878)
    examination = doctor.examine(options)
    try:
        (limits,) = [found for found in examination.findings if found.name == "limits"]
        has_groups = examination.isolation.cgroups is not None
        assert limits.verdict is (Verdict.OK if has_groups else Verdict.WEAK)
        if os.getuid() == 0 and os.access("/sys/fs/cgroup/memory/cgroup.procs", os.W_OK):
            assert has_groups
    finally:
        examination.isolation.close()

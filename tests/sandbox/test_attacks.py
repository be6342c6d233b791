"""What hostile code tries from inside a session, against a real service and its real sandbox.

Each attack is an expression. It must end as its entry says, and straight afterwards the service is
ready and a neighbour's session answers. `test_without_a_sandbox_...` is the negative control.
"""

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from kernelsvc.sandbox.syscalls import allowed
from tests.support.process import ServiceProcess

SYSCALL = "(lambda l: (l.syscall(*{call}), __import__('ctypes').get_errno()))"
SYSCALL += "(__import__('ctypes').CDLL(None, use_errno=True))"
EPERM, ENOSYS = 1, 38


def syscall(*arguments: int) -> str:
    """An expression that makes a system call by its number and shows its result and errno."""
    return SYSCALL.format(call=arguments)


def connect(address: str) -> str:
    return f"__import__('socket').create_connection({address}, 3)"


MISSING = "FileNotFoundError"
DENIED = "PermissionError"
READ_ONLY = r"OSError.*Read-only file system"
UNREACHABLE = "OSError.*Network is unreachable"
X86_64 = {
    "ptrace": 101, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155,
    "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321, "userfaultfd": 323,
    "perf_event_open": 298, "process_vm_readv": 310, "process_vm_writev": 311, "kexec_load": 246,
    "init_module": 175, "open_by_handle_at": 304, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "mount_setattr": 442, "kcmp": 312, "pidfd_getfd": 438,
    "syslog": 103, "reboot": 169, "swapon": 167, "settimeofday": 164, "sethostname": 170,
}  # fmt: skip
NEW_USER_NAMESPACE = 0x10000000 | signal.SIGCHLD

ATTACKS = {
    # ---- files of the host
    "read_the_password_hashes": ("open('/etc/shadow').read()", MISSING),
    "read_a_secret_of_the_host": ("open({secret!r}).read()", MISSING),
    "read_the_database": ("open({data!r} + '/kernelsvc.db', 'rb').read()", MISSING),
    "read_another_sessions_workspace": (
        "open({data!r} + '/workspaces/neighbour/diary').read()", MISSING),
    "read_another_workspace_by_dots": ("open('/workspace/../neighbour/diary').read()", MISSING),
    "list_the_homes": (
        "[n for n in os.listdir('/home') if n not in sys.prefix.split('/')]",
        rf"{MISSING}|returned \[\]"),
    "write_to_the_system": ("open('/usr/bin/evil', 'w')", READ_ONLY),
    "write_to_the_root": ("open('/evil', 'w')", READ_ONLY),
    "write_to_the_interpreter": ("open(os.__file__, 'a')", f"{DENIED}|{READ_ONLY}"),
    "write_a_setting_of_the_kernel": (
        "open('/proc/sys/kernel/core_pattern', 'w')", f"{DENIED}|{READ_ONLY}"),
    "write_to_sysrq": ("open('/proc/sysrq-trigger', 'w')", f"{DENIED}|{READ_ONLY}|{MISSING}"),
    "make_a_device": ("os.mknod('/workspace/disk', 0o60600, os.makedev(254, 0))", DENIED),
    "open_a_disk": ("open('/dev/vda', 'rb')", MISSING),
    "fill_devices_directory": ("open('/dev/hog', 'w')", READ_ONLY),
    "link_to_a_file_of_the_system": (
        "os.link('/usr/bin/env', '/workspace/env')", f"{DENIED}|OSError.*cross-device"),
    # ---- processes
    "read_the_services_environment": ("open('/proc/1/environ').read()", DENIED),
    "read_the_memory_of_process_1": ("open('/proc/1/mem', 'rb')", DENIED),
    "write_to_process_1": ("open('/proc/1/task/1/mem', 'r+b')", "FileNotFoundError"),
    "open_the_sockets_of_process_1": ("os.open('/proc/1/fd/0', os.O_RDWR)", "FileNotFoundError"),
    "read_the_hosts_environment": ("open('/proc/%d/environ' % os.getppid()).read()", DENIED),
    "read_the_hosts_memory": ("open('/proc/%d/mem' % os.getppid(), 'rb')", DENIED),
    "open_the_hosts_sockets": ("os.listdir('/proc/%d/fd' % os.getppid())", DENIED),
    "see_other_processes": (
        "[p for p in os.listdir('/proc') if p.isdigit()"
        " and int(p) not in (1, os.getppid(), os.getpid())]",
        r"returned \[\]"),
    "signal_the_service": ("os.kill({pid}, 9)", "ProcessLookupError"),
    "kill_process_1": ("os.kill(1, 9)", "returned None"),
    "terminate_process_1": ("os.kill(1, 15)", "returned None"),
    "raise_priority": ("os.nice(-10)", DENIED),
    "take_real_time": (
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))", DENIED),
    "become_root": ("os.setuid(0)", f"{DENIED}|OSError.*Invalid argument"),
    "run_a_setuid_program": (
        "__import__('subprocess').run(['su', '-c', 'id'], capture_output=True).returncode",
        r"returned [1-9]"),
    "run_a_setuid_program_of_its_own": (
        "(__import__('shutil').copy('/usr/bin/id', 'own'), os.chmod('own', 0o6755), "
        "'uid=1000' in __import__('subprocess').getoutput('./own'))[2]", "returned True"),
    "have_capabilities": (
        "[line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')]",
        # To change the root directory, which is what the next two are about.
        r"returned \['0{16}', '0{11}40000', '0{11}40000', '0{16}', '0{16}'\]"),
    "climb_out_of_a_root_directory": (
        "(seen := os.listdir('/'), fd := os.open('/', os.O_RDONLY), os.chroot('/workspace'), "
        "os.fchdir(fd), [os.chdir('..') for _ in range(64)], os.chroot('.'), os.close(fd), "
        "os.chdir('/workspace'), os.listdir('/') == seen)[-1]", "returned True"),
    "have_a_program_change_its_root_directory": (
        "__import__('subprocess').getoutput('chroot / id')", "Operation not permitted"),
    "gain_privileges_by_exec": (
        "[line.split()[1] for line in open('/proc/self/status') "
        "if line.startswith(('NoNewPrivs', 'Seccomp:'))]", r"returned \['1', '2'\]"),
    # ---- network
    "connect_to_the_service": (connect("('127.0.0.1', {port})"), "ConnectionRefusedError"),
    "connect_to_the_service_by_ipv6": (connect("('::1', {port})"), "OSError|ConnectionRefused"),
    "connect_to_the_metadata_service": (connect("('169.254.169.254', 80)"), UNREACHABLE),
    "connect_to_the_internet": (connect("('203.0.113.1', 80)"), UNREACHABLE),
    "look_a_name_up": ("__import__('socket').getaddrinfo('example.org', 80)", "gaierror"),
    "connect_to_an_abstract_socket": (
        "__import__('socket').socket(1).connect({abstract!r})", "ConnectionRefusedError"),
    "connect_to_another_kernels_socket": (
        "__import__('socket').socket(1).connect({kernel_socket!r})", MISSING),
    "look_for_another_kernels_socket": (
        "len([n for n in os.listdir('/run/kernel') if '-ipc-' in n])", "returned 3"),
    "open_a_raw_socket": ("__import__('socket').socket(2, 3, 1)", DENIED),
    "open_a_packet_socket": ("__import__('socket').socket(17, 3, 768)", DENIED),
    "open_a_vm_socket": ("__import__('socket').socket(40, 1)", DENIED),
    "open_a_crypto_socket": ("__import__('socket').socket(38, 5)", DENIED),
    # ---- the kernel
    **{f"call_{name}": (syscall(number, 0, 0, 0, 0), rf"returned \(-1, {EPERM}\)")
       for name, number in X86_64.items()},
    "call_io_uring_setup": (syscall(425, 1, 0), rf"returned \(-1, {ENOSYS}\)"),
    "call_clone3": (syscall(435, 0, 0), rf"returned \(-1, {ENOSYS}\)"),
    "clone_into_a_new_user_namespace": (
        syscall(56, NEW_USER_NAMESPACE, 0, 0, 0, 0), rf"returned \(-1, {EPERM}\)"),
    "change_the_personality": (syscall(135, 0x0400000), rf"returned \(-1, {EPERM}\)"),
}  # fmt: skip

TRY = """
import os, sys
try:
    result = {attack}
except BaseException as error:
    print(type(error).__mro__[0].__name__, type(error).__name__, "OSError", error, flush=True)
else:
    print("returned", result, flush=True)
"""


class Service:
    """A service with a neighbour's session, for all attacks of this module."""

    def __init__(self, process: ServiceProcess, secret: Path, abstract: str) -> None:
        self.http = httpx.Client(base_url=process.url, timeout=90)
        self.create("neighbour")
        self.run("neighbour", "open('diary', 'w').write('dear diary')")
        self.places = {
            "secret": str(secret),
            "data": f"{process.directory}/data",
            "pid": process.process.pid,
            "port": process.port,
            "abstract": abstract,
            "kernel_socket": self.sockets_of_a_kernel(process)[0],
        }

    @staticmethod
    def sockets_of_a_kernel(process: ServiceProcess) -> list[str]:
        """Where a kernel listens; whoever may reach it, can connect."""
        listening = []
        for path in Path(process.directory, "run").glob("*/host-*/*-ipc-*"):
            # One that is only being started has a socket that does not listen yet.
            with socket.socket(socket.AF_UNIX) as client, suppress(ConnectionRefusedError):
                client.connect(str(path))
                listening.append(str(path))
        return listening

    def create(self, session_id: str, **fields: object) -> None:
        body = {"language": "python", "session_id": session_id, **fields}
        assert self.http.post("/api/sessions", json=body).status_code == 201

    @contextmanager
    def attacked(self, **fields: object) -> Iterator[None]:
        """For as long as this lasts, there is a session `attacker`."""
        self.create("attacker", **fields)
        try:
            yield
        finally:
            assert self.http.delete("/api/sessions/attacker").status_code == 200

    def run(self, session_id: str, code: str, timeout: float = 30):
        body = {"code": code, "timeout": timeout}
        answer = self.http.post(f"/api/sessions/{session_id}/run", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def is_well(self) -> None:
        """Assert that the service and the neighbour have noticed nothing."""
        assert self.http.get("/health/ready").status_code == 200
        run = self.run("neighbour", "print(open('diary').read())")
        assert (run["exit_code"], run["stdout"], run["memory"]) == (0, "dear diary\n", "kept")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    secret = tmp_path_factory.mktemp("host") / "secret"
    secret.write_text("the host's secret")
    abstract = f"\0kernelsvc-test-{secret.parent}"
    with socket.socket(socket.AF_UNIX) as listener, ServiceProcess(sleep_after="never") as process:
        listener.bind(abstract)
        listener.listen()
        service = Service(process, secret, abstract)
        yield service
        service.http.close()


@pytest.fixture
def attacker(service, request):
    """A session of this test's own, and the neighbour asked after it."""
    with service.attacked():
        yield service
        service.is_well()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_contained(attacker, attack):
    code, outcome = ATTACKS[attack]
    run = attacker.run("attacker", TRY.format(attack=code.format(**attacker.places)))
    assert re.search(outcome, run["stdout"]), run
    assert "secret" not in run["stdout"].partition("returned")[2]
    assert attacker.run("attacker", "6 * 7")["text"] == "42"


def test_without_a_sandbox_the_same_attacks_succeed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the host's secret")
    with (
        ServiceProcess(sandbox="off", log_level="error") as process,
        httpx.Client(base_url=process.url, timeout=60) as http,
    ):
        http.post("/api/sessions", json={"language": "python", "session_id": "s"})
        for attack in (
            f"open({str(secret)!r}).read()",
            connect(f"('127.0.0.1', {process.port})"),
            f"os.kill({process.process.pid}, 0)",
        ):
            code = {"code": TRY.format(attack=attack)}
            run = http.post("/api/sessions/s/run", json=code).json()
            assert run["stdout"].startswith("returned"), run


# ---- bombs

BOMBS = {
    "fork_bomb": (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"),
    # The shell gives up where it cannot even fork `sleep`.
    "shell_fork_bomb": (
        "import os\nraise OSError(os.system('bomb() { bomb | bomb & }; bomb; sleep 60'))"),
    "thread_bomb": (
        "import threading, time\n"
        "while True:\n    threading.Thread(target=time.sleep, args=(60,)).start()"),
    "memory_bomb": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "memory_bomb_in_children": (
        "import subprocess, sys\n"
        "code = 'x = []\\nwhile True: x.append(bytearray(1 << 24))'\n"
        "for child in [subprocess.Popen([sys.executable, '-c', code]) for _ in range(4)]:\n"
        "    child.wait()\n"
        "raise MemoryError"),
    "file_descriptor_bomb": "x = []\nwhile True: x.append(open('/dev/null'))",
    "temporary_files_bomb": (
        "x = b'0' * (1 << 20)\n"
        "with open('/tmp/hog', 'wb') as file:\n    while True: file.write(x)"),
    "shared_memory_bomb": (
        "x = b'0' * (1 << 20)\n"
        "with open('/dev/shm/hog', 'wb') as file:\n    while True: file.write(x)"),
    "large_file_bomb": (
        "with open('hog', 'wb') as file:\n"
        "    file.truncate(100 << 20)"),
    "output_bomb": "while True: print('x' * 10_000)",
    "recursion_bomb": "def f(): f()\nf()",
    "zombie_bomb": (
        "import os\n"
        "while True:\n"
        "    if os.fork() == 0: os._exit(0)"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_goes_off_inside(service, bomb):
    limits = {"memory": "200MiB", "processes": 48, "open_files": 200, "file_size": "50MiB"}
    with service.attacked(limits=limits):
        run = service.run("attacker", BOMBS[bomb], timeout=6)
        # An ordinary exception, out of memory, or the run's time.
        assert run["exit_code"] in (1, 124, 137), run
        service.is_well()
        after = service.run("attacker", "6 * 7")
        assert (after["exit_code"], after["text"]) == (0, "42")


def test_a_session_over_its_memory_is_137_and_says_how_much_it_had(service):
    with service.attacked(limits={"memory": "128MiB"}):
        service.run("attacker", "before = 1")
        run = service.run("attacker", "x = bytearray(1 << 30)")
        service.is_well()
        assert service.run("attacker", "before")["text"] == "1"
    if run["exit_code"] == 1:
        # Without control groups, each process has the limit, and Python says so itself.
        assert run["error"]["ename"] == "MemoryError"
    else:
        assert (run["exit_code"], run["memory"]) == (137, "restored")
        assert run["error"]["ename"] == "OutOfMemory"
        assert "128 MiB" in run["error"]["evalue"]


# ---- its own kernel

SABOTAGE = {
    "removes_its_sockets": "import os, glob; [os.unlink(f) for f in glob.glob('/run/kernel/*')]",
    "replaces_its_connection_file": (
        "import glob, os\n"
        "for name in glob.glob('/run/kernel/*.json'):\n"
        "    os.unlink(name)\n"
        "    os.symlink('/etc/passwd', name)"),
    "plants_links_for_the_next_kernel": (
        "import os\n"
        "for number in range(500):\n"
        "    for name in (f'{number}.json', f'{number}-ipc-1'):\n"
        "        if not os.path.lexists(f'/run/kernel/{name}'):\n"
        "            os.symlink('/workspace/target', f'/run/kernel/{name}')"),
    "talks_nonsense_to_the_service": (
        "import os\n"
        "for fd in range(3, 200):\n"
        "    try:\n        os.write(fd, b'nonsense' * 1000)\n"
        "    except OSError:\n        pass"),
    "patches_the_kernel": (
        "import ipykernel.kernelbase as base\n"
        "base.Kernel.execute_request = None\n"
        "get_ipython().kernel.do_execute = None\n"
        "get_ipython().kernel.session.send = None"),
    "sends_forged_messages": (
        "import json\n"
        "session = get_ipython().kernel.session\n"
        "socket = get_ipython().kernel.iopub_socket\n"
        "session.key = b'wrong'\n"
        "for number in range(100):\n"
        "    session.send(socket, 'stream', {'name': 'stdout', 'text': 'forged'},\n"
        "                 parent={'header': {'msg_id': 'somebody-elses'}})"),
    "sends_huge_frames": (
        "socket = get_ipython().kernel.iopub_socket\n"
        "socket.send_multipart([b'x' * (32 << 20)] * 3)"),
    "poisons_its_imports": (
        "import os\n"
        "os.makedirs('.packages', exist_ok=True)\n"
        "names = 'ipykernel zmq os pdb debugpy tornado sitecustomize usercustomize'.split()\n"
        "user = '.local/lib/python%d.%d/site-packages' % __import__('sys').version_info[:2]\n"
        "os.makedirs(user)\n"
        "open(user + '/evil.pth', 'w').write('import os; os._exit(3)')\n"
        "for name in names:\n"
        "    for place in ('.', '.packages', user):\n"
        "        open(f'{place}/{name}.py', 'w').write('raise SystemExit(3)')\n"
        "os._exit(0)"),
}  # fmt: skip


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_code_that_sabotages_its_kernel_harms_only_itself(service, sabotage):
    with service.attacked():
        service.run("attacker", SABOTAGE[sabotage], timeout=3)
        service.is_well()
        for way_to_a_kernel in ("restart", "sleep"):
            answer = service.http.post(f"/api/sessions/attacker/{way_to_a_kernel}")
            assert answer.status_code == 200, answer.text
            after = service.run("attacker", "6 * 7")
            assert (after["exit_code"], after["text"]) == (0, "42"), after


# ---- what the sandbox allows, so that a weakening shows in a difference


def test_the_system_calls_that_are_allowed_are_those_of_the_list():
    dangerous = {
        *X86_64, "io_uring_setup", "clone3", "clone", "socket", "personality", "acct", "quotactl",
        "nfsservctl", "vhangup", "iopl", "ioperm", "lookup_dcookie", "fanotify_init",
        "delete_module",
        "finit_module", "kexec_file_load", "setdomainname", "stime", "clock_settime", "swapoff",
        "name_to_handle_at", "memfd_secret", "process_madvise", "fsmount", "fsconfig", "fspick",
    }  # fmt: skip
    assert not allowed() & dangerous
    assert len(allowed()) == 347

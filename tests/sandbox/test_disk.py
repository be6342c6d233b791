"""Sessions that take more of the disk than they may."""

import pytest

from tests.support.waiting import eventually

LIMITS = {"disk": "20MiB", "file_size": "100MiB"}
WAIT = "\nimport threading; threading.Event().wait()"

HOARDS = {
    "in_many_files": "for n in range(30): open(f'f{n}', 'wb').write(bytes(1 << 20))",
    "in_one_file": "open('hog', 'wb').write(bytes(30 << 20))",
    "in_empty_files": "for n in range(7000): open(f'f{n}', 'w').close()",
    "in_directories": "import os\nfor n in range(7000): os.mkdir(f'd{n}')",
    "in_a_hidden_directory": (
        "import os\nos.makedirs('.a/.b')\nopen('.a/.b/hog', 'wb').write(bytes(30 << 20))"),
    "in_a_locked_directory": (
        "import os\nos.mkdir('a')\nopen('a/hog', 'wb').write(bytes(30 << 20))\nos.chmod('a', 0)"),
    "beside_its_sockets": "open('/run/kernel/hog', 'wb').write(bytes(30 << 20))",
    "in_a_deleted_file": (
        "import os\nfile = open('hog', 'wb')\nos.unlink('hog')\nfile.write(bytes(30 << 20))\n"
        "file.flush()"),
    "in_a_childs_deleted_file": (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import os, time\\n'\n"
        "    'file = open(\"hog\", \"wb\", 0); os.unlink(\"hog\")\\n'\n"
        "    'file.write(bytes(30 << 20)); time.sleep(60)'], start_new_session=True)"),
    "in_a_mapped_file_without_a_name": (
        "import mmap, os\nfile = open('hog', 'w+b')\nos.unlink('hog')\nfile.truncate(30 << 20)\n"
        "memory = mmap.mmap(file.fileno(), 0)\nfile.close()\n"
        "import ctypes\nctypes.memset((ctypes.c_char * len(memory)).from_buffer(memory), 1,\n"
        "    30 << 20)"),
}  # fmt: skip


@pytest.mark.parametrize("hoard", HOARDS)
async def test_code_that_hoards_is_killed_and_the_next_run_may_clear_up(api, hoard):
    await api.create(limits=LIMITS)
    run = await api.run(HOARDS[hoard] + WAIT, timeout=30)
    assert (run["exit_code"], run["memory"]) == (137, "lost"), run
    assert run["error"]["ename"] == "DiskLimitExceeded"
    assert "20 MiB" in run["error"]["evalue"]
    clear = "import os; os.system('chmod -R 700 .; rm -rf * .a')"
    assert (await api.run(clear))["text"] == "0"
    assert (await api.run("open('small', 'wb').write(bytes(1 << 20))"))["text"] == str(1 << 20)


async def test_a_session_over_its_limit_may_add_nothing(api):
    await api.create(limits=LIMITS)
    await api.run(HOARDS["in_one_file"] + WAIT, timeout=30)
    run = await api.run("open('more', 'wb').write(bytes(5 << 20))" + WAIT, timeout=30)
    assert (run["exit_code"], run["error"]["ename"]) == (137, "DiskLimitExceeded")


async def test_a_session_far_over_its_limit_gets_no_kernel_until_files_are_deleted(api):
    await api.create(limits=LIMITS)
    run = await api.run("open('hog', 'wb').write(bytes(60 << 20))" + WAIT, timeout=30)
    assert run["exit_code"] == 137
    answer = await api.send("POST", "/api/sessions/s/run", {"code": "1"})
    assert (answer.status, answer.json["code"]) == (413, "workspace_full")
    assert (await api.session())["state"] == "failed"
    assert (await api.send("DELETE", "/api/sessions/s/files/hog")).status == 200
    assert (await api.run("6 * 7"))["text"] == "42"


async def test_what_is_hoarded_between_runs_ends_the_kernel_and_the_next_run_says_so(api, caplog):
    await api.create(limits=LIMITS)
    await api.run(
        "import threading\n"
        "def hoard():\n"
        "    file = open('hog', 'wb', 0)\n"
        "    for _ in range(30): file.write(bytes(1 << 20))\n"
        "    ended.wait()\n"
        "ended, started = threading.Event(), threading.Event()\n"
        "threading.Timer(0.5, hoard).start()"
    )

    async def is_replaced() -> bool:
        return "kernel_died" in caplog.text

    await eventually(is_replaced)
    run = await api.run("import os; os.path.getsize('hog')")
    assert (run["text"], run["memory"]) == (str(30 << 20), "lost")
    assert "the session's files took more of the disk" in run["memory_detail"]


async def test_files_of_the_size_of_the_limit_are_kept(api):
    await api.create(limits=LIMITS)
    run = await api.run("open('large', 'wb').write(bytes(18 << 20))")
    assert run["exit_code"] == 0
    assert (await api.run("import os; os.path.getsize('large')"))["memory"] == "kept"

"""What a run answers: outputs, errors, exit codes, environment, stdin, data."""

import asyncio
import base64
import signal

import nbformat
import psutil
import pytest

from kernelsvc.keys.ring import LOCAL
from kernelsvc.models.run import RunRequest
from tests.support.inside import process_inside


async def test_a_run_answers_every_field_of_the_contract(api):
    await api.create()
    run = await api.run("print('out'); import sys; print('err', file=sys.stderr); 6 * 7")
    assert run["status"] == "completed"
    assert run["exit_code"] == 0
    assert run["stdout"] == "out\n"
    assert run["stderr"] == "err\n"
    assert run["text"] == "42"
    assert run["error"] is None
    assert run["timed_out"] is False
    assert run["memory"] == "kept"
    assert run["execution_count"] == 1
    assert run["truncated"] is False
    assert run["data"] == {}
    assert run["session_id"] == "s"
    assert run["language"] == "python"
    assert run["run_id"].startswith("run_")
    assert run["started_at"].endswith("Z")
    assert run["duration"].endswith("s")
    assert 0 < float(run["duration"][:-1]) < 60


async def test_outputs_are_a_valid_notebook_cells_outputs_in_order(api):
    await api.create()
    run = await api.run(
        "import sys, pandas\n"
        "from IPython.display import display\n"
        "import matplotlib.pyplot as plt\n"
        "print('one')\n"
        "plt.plot([1, 2]); plt.show()\n"
        "print('two', file=sys.stderr)\n"
        "display('three')\n"
        "print('four')\n"
        "pandas.DataFrame({'a': [1]})"
    )
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.from_dict(o) for o in run["outputs"]])
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))
    assert [output["output_type"] for output in run["outputs"]] == [
        "stream",
        "display_data",
        "stream",
        "display_data",
        "stream",
        "execute_result",
    ]
    png = base64.b64decode(run["outputs"][1]["data"]["image/png"])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert "<table" in run["outputs"][5]["data"]["text/html"]
    assert run["text"].split() == ["a", "0", "1"]


async def test_a_progress_bar_is_one_line(api):
    await api.create()
    run = await api.run(
        "for i in range(1000):\n    print(f'\\r{i:4}/999', end='', flush=True)\nprint()"
    )
    assert run["outputs"] == [{"output_type": "stream", "name": "stdout", "text": " 999/999\n"}]


async def test_updated_and_cleared_displays_show_their_last_state_only(api):
    await api.create()
    run = await api.run(
        "from IPython.display import clear_output, display\n"
        "print('gone')\n"
        "clear_output()\n"
        "handle = display('first', display_id=True)\n"
        "for i in range(100):\n"
        "    handle.update(i)\n"
    )
    assert [output["data"]["text/plain"] for output in run["outputs"]] == ["99"]
    assert run["stdout"] == ""


async def test_output_of_file_descriptors_and_children_is_stdout_in_order(api):
    await api.create()
    run = await api.run(
        "import os, subprocess, sys\n"
        "print('a')\n"
        "subprocess.run(['echo', 'b'])\n"
        "print('c')\n"
        "os.write(1, b'd\\n')\n"
        "print('e')\n"
        "sys.stdout.buffer.write(b'f\\n')\n"
        "_ = os.system('echo g; echo h >&2')\n"
        "subprocess.run(['echo', 'i'], stdout=sys.stdout)\n"
        "print('j')"
    )
    assert run["stdout"] == "a\nb\nc\nd\ne\nf\ng\ni\nj\n"
    assert run["stderr"] == "h\n"


async def test_prints_and_writes_to_the_descriptor_keep_their_order_throughout(api):
    await api.create()
    run = await api.run(
        "import os\nfor i in range(4000):\n    print('a', i)\n    os.write(1, b'b %d\\n' % i)"
    )
    assert run["stdout"] == "".join(f"a {i}\nb {i}\n" for i in range(4000))


async def test_a_childs_last_words_are_never_late(api):
    await api.create()
    for number in range(30):
        run = await api.run(f"import subprocess; subprocess.run(['echo', 'word {number}'])")
        assert run["stdout"] == f"word {number}\n"


async def test_output_of_processes_forked_by_multiprocessing_is_stdout(api):
    await api.create()
    run = await api.run(
        "import multiprocessing\n"
        "context = multiprocessing.get_context('fork')\n"
        "child = context.Process(target=print, args=('from the child',))\n"
        "child.start(); child.join()\n"
        "with context.Pool(2) as pool:\n"
        "    print(sum(pool.map(abs, range(-10, 0))))"
    )
    assert run["stdout"] == "from the child\n55\n"


async def test_late_output_of_threads_and_tasks_belongs_to_the_run_that_started_them(api):
    await api.create()
    first = await api.run(
        "import asyncio, threading\n"
        "go, done = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    go.wait(); print('from the thread'); done.set()\n"
        "threading.Thread(target=work).start()\n"
        "async def tick():\n"
        "    while not go.is_set(): await asyncio.sleep(0.01)\n"
        "    print('from the task')\n"
        "task = asyncio.create_task(tick())\n"
        "print('started')"
    )
    second = await api.run("go.set(); _ = done.wait(); await task; print('mine')")
    assert first["stdout"] == "started\n"
    assert second["stdout"] == "mine\n"
    later = await api.send("GET", f"/api/sessions/s/runs/{first['run_id']}")
    assert sorted(later.json["background"].splitlines()) == ["from the task", "from the thread"]


async def test_late_output_of_a_child_process_belongs_to_the_run_that_started_it(api):
    await api.create()
    first = await api.run(
        "import subprocess\n"
        "child = subprocess.Popen(['sh', '-c', 'read line; echo late $line'],"
        " stdin=subprocess.PIPE)"
    )
    second = await api.run("_ = child.communicate(b'words\\n'); print('mine')")
    assert (first["stdout"], second["stdout"]) == ("", "mine\n")
    later = await api.send("GET", f"/api/sessions/s/runs/{first['run_id']}")
    assert later.json["background"] == "late words\n"


async def test_a_pool_of_an_earlier_run_works_for_the_run_that_submits(api):
    await api.create()
    await api.run(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1)\n"
        "pool.submit(print, 'first').result()"
    )
    run = await api.run("pool.submit(print, 'second').result()")
    assert run["stdout"] == "second\n"


async def test_a_flood_keeps_head_and_tail_and_counts_what_was_cut(api, server):
    await api.create()
    lines = 2_000_000
    service = psutil.Process()
    before = service.memory_info().rss
    peak = before
    running = asyncio.create_task(
        api.run(f"for i in range({lines}): print(f'{{i:099}}')", timeout=110)
    )
    while not running.done():
        peak = max(peak, service.memory_info().rss)
        assert (await api.send("GET", "/health/live")).status == 200
    run = await running
    assert run["exit_code"] == 0
    assert run["truncated"] is True
    kept = run["stdout"].splitlines()
    assert kept[0] == f"{0:099}"
    assert kept[-1] == f"{lines - 1:099}"
    assert run["truncated_bytes"] + len(run["stdout"]) == lines * 100
    assert f"{run['truncated_bytes']} bytes of output cut" in run["stderr"]
    assert peak - before < 64 * 1024 * 1024


async def test_below_the_cap_no_message_is_lost(api):
    await api.create()
    run = await api.run("for i in range(20_000): print(i, flush=True)", timeout=100)
    assert run["stdout"] == "".join(f"{i}\n" for i in range(20_000))
    assert run["truncated"] is False
    run = await api.run(
        "from IPython.display import display\nfor i in range(3_000): display(i)", timeout=100
    )
    shown = [output["data"]["text/plain"] for output in run["outputs"]]
    assert shown == [str(i) for i in range(3_000)]


@pytest.mark.parametrize(
    ("code", "exit_code", "stderr", "error"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero", "ZeroDivisionError"),
        ("def f(:", 1, "SyntaxError", "SyntaxError"),
        ("import sys; sys.exit(3)", 3, "", None),
        ("exit(3)", 3, "", None),
        ("exit()", 0, "", None),
        ("exit", 0, "", None),
        ("quit()", 0, "", None),
        ("import sys; sys.exit()", 0, "", None),
        ("import sys; sys.exit('text')", 1, "text\n", None),
        ("import sys; sys.exit(True)", 1, "", None),
        ("import sys; sys.exit(256 + 7)", 7, "", None),
        ("raise SystemExit(4)", 4, "", None),
    ],
)
async def test_what_ends_the_run_but_not_the_kernel(api, code, exit_code, stderr, error):
    await api.create()
    await api.run("kept = 1")
    alone = code in ("exit", "def f(:")
    run = await api.run(code if alone else f"{code}\nprint('not reached')")
    assert run["exit_code"] == exit_code
    assert stderr in run["stderr"]
    assert (run["error"] or {}).get("ename") == error
    assert run["stdout"] == ""
    assert run["memory"] == "kept"
    assert (await api.run("kept"))["text"] == "1"


async def test_tracebacks_are_plain_text_with_the_codes_own_line_numbers(api):
    await api.create()
    run = await api.run("x = 1\n\n1 / 0", env={"A": "b"}, stdin="c")
    assert "Cell In[1], line 3" in run["stderr"]
    assert "\x1b" not in run["stderr"] + "".join(run["error"]["traceback"])
    assert run["stderr"].rstrip().endswith("ZeroDivisionError: division by zero")
    assert run["error"]["evalue"] == "division by zero"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import os; os._exit(7)", 7),
        ("import os; os._exit(0)", 0),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139),
        ("import ctypes; ctypes.string_at(0)", 139),
        ("import os; os.abort()", 134),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143),
    ],
)
async def test_what_ends_the_kernel_tells_how_and_a_new_one_takes_over(api, code, exit_code):
    await api.create(snapshots=True)
    await api.run("before = 1")
    run = await api.run(f"print('before', flush=True)\n{code}")
    assert run["exit_code"] == exit_code
    assert run["memory"] == "restored"
    assert "replaced" in run["memory_detail"]
    assert run["status"] == ("completed" if exit_code == 0 else "failed")
    after = await api.run("'before' in globals()")
    assert after["exit_code"] == 0
    assert after["text"] == "True"
    assert after["memory"] == "kept"


async def test_output_before_os_exit_is_not_lost(api):
    await api.create()
    run = await api.run("import os\nprint('a' * 100_000)\nos._exit(7)")
    assert run["stdout"] == "a" * 100_000 + "\n"


async def test_a_kernel_killed_from_outside_ends_its_run_with_137(api, server):
    await api.create()
    pid = int((await api.run("import os; os.getpid()"))["text"])
    running = asyncio.create_task(api.run("import time; time.sleep(60)"))
    await api.until_running()
    process_inside(pid).send_signal(signal.SIGKILL)
    run = await running
    assert run["exit_code"] == 137
    assert run["memory"] == "restored"


async def test_environment_of_a_run_is_gone_afterwards(api):
    await api.create(env={"SESSION_WIDE": "yes"})
    value = 'it\'s "quoted"\nand $HOME\t\\ 多'
    show = "import os, json; print(json.dumps({k: os.environ.get(k) for k in %r}))"
    names = ["WANTED", "SESSION_WIDE", "ERA_SESSION", "ERA_SESSION_ID", "ERA_LANGUAGE"]
    run = await api.run(show % names, env={"WANTED": value})
    assert eval(run["stdout"].replace("null", "None")) == {
        "WANTED": value,
        "SESSION_WIDE": "yes",
        "ERA_SESSION": "true",
        "ERA_SESSION_ID": "s",
        "ERA_LANGUAGE": "python",
    }
    after = await api.run("print(os.environ.get('WANTED'))")
    assert after["stdout"] == "None\n"


async def test_environment_reaches_children_and_base_url_answers(api, server):
    await api.create()
    run = await api.run("!echo $ERA_BASE_URL $ERA_PROXY_URL $X", env={"X": "y"})
    assert run["stdout"].split() == [server.url, f"{server.url}/proxy/s", "y"]


async def test_nothing_of_the_services_environment_reaches_the_code(api, monkeypatch):
    monkeypatch.setenv("A_SECRET_OF_THE_SERVICE", "1")
    await api.create()
    assert (await api.run("import os; 'A_SECRET_OF_THE_SERVICE' in os.environ"))["text"] == "False"


async def test_stdin_feeds_input_line_by_line(api):
    await api.create()
    run = await api.run(
        "import sys\n"
        "first = input('? ')\n"
        "print(first, '|', input(), '|', sys.stdin.read())\n"
        "input()",
        stdin="one\ntwo\nthree",
    )
    assert run["stdout"] == "? one | two | three\n"
    assert run["error"]["ename"] == "EOFError"


async def test_input_without_stdin_fails_at_once_and_says_what_to_do(api):
    await api.create()
    run = await api.run("input('name? ')", timeout=20)
    assert run["exit_code"] == 1
    assert "'stdin'" in run["error"]["evalue"]


async def test_top_level_await_works(api):
    await api.create()
    run = await api.run("import asyncio\nawait asyncio.sleep(0.01)\n'awaited'")
    assert run["text"] == "'awaited'"


async def test_lone_surrogates_in_output_and_errors_do_not_lose_the_run(api):
    await api.create()
    run = await api.run("print('a\\ud800b'); raise ValueError('\\udfff')", timeout=20)
    assert run["stdout"] == "a?b\n"
    assert run["error"] == {**run["error"], "ename": "ValueError", "evalue": "?"}
    assert run["exit_code"] == 1


@pytest.mark.parametrize(
    "content", ["not json", "[1]", '{"a": NaN}', "[" * 100_000, '{"a": 1', "\\xff"]
)
async def test_broken_data_stays_as_it_was_and_the_run_says_so(api, content):
    await api.create(data={"kept": True})
    run = await api.run(f"open('.session_data.json', 'w').write({content!r})")
    assert run["data"] == {"kept": True}
    assert ".session_data.json was not taken over" in run["data_detail"]
    again = await api.run("print(open('.session_data.json').read())")
    assert again["stdout"] == '{"kept": true}\n'


@pytest.mark.parametrize(
    "trap",
    [
        "os.symlink('/etc/passwd', name)",
        "os.mkfifo(name)",
        "os.mkdir(name)",
        "open(name, 'w').truncate(2 * 1024 * 1024)",
    ],
)
async def test_data_file_turned_into_a_trap_neither_hangs_nor_leaks(api, trap):
    await api.create(data={"kept": True})
    run = await api.run(f"import os\nname = '.session_data.json'\nos.remove(name)\n{trap}")
    assert run["data"] == {"kept": True}
    assert "was not taken over" in run["data_detail"]
    again = await api.run("print(open(name).read())")
    assert again["stdout"] == '{"kept": true}\n'


async def test_deleted_data_file_is_there_again_before_the_next_run(api):
    await api.create(data={"kept": True})
    assert (await api.run("import os; os.remove('.session_data.json')"))["data"] == {"kept": True}
    assert (await api.run("open('.session_data.json').read()"))["text"] == "'{\"kept\": true}'"


async def test_a_patch_during_a_run_holds_unless_the_code_wrote_the_file(api, tmp_path):
    await api.create(data={"by": "nobody"}, default_timeout=40)
    wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nos.remove('go')\n"
    write = "open('.session_data.json', 'w').write('{\"by\": \"code\"}')"
    workspace = tmp_path / "data" / "workspaces" / "s"
    for code, data, said in ((wait, "patch", None), (wait + write, "code", "replaced")):
        running = asyncio.create_task(api.run(code))
        await api.until_running()
        body = {"data": {"by": "patch"}, "default_timeout": 50}
        assert (await api.send("PATCH", "/api/sessions/s", body)).status == 200
        (workspace / "go").touch()
        run = await running
        assert run["data"] == {"by": data}
        assert (said in run["data_detail"]) if said else run["data_detail"] is None
        session = await api.session()
        assert session["data"] == {"by": data}
        assert session["default_timeout"] == 50


async def test_runs_of_one_session_execute_in_order_of_arrival(api, server):
    await api.create()
    await api.run("seen = []")
    requests = [RunRequest(code=f"seen.append({n})") for n in range(17)]
    await asyncio.gather(*(server.service.run(LOCAL, "s", request) for request in requests))
    assert (await api.run("seen"))["text"] == str(list(range(17)))


@pytest.mark.parametrize(
    ("broken", "exit_code", "truncated"),
    [
        ("kernel._publish_status = lambda *args, **kwargs: None", 0, False),
        ("kernel._reply = None", 1, True),
    ],
)
async def test_a_run_that_breaks_its_kernel_ends_all_the_same(api, broken, exit_code, truncated):
    await api.create()
    code = f"kernel = get_ipython().kernel\n{broken}\nprint('said')"
    run = await api.run(code, timeout=30)
    assert (run["exit_code"], run["stdout"]) == (exit_code, "said\n")
    assert run["truncated"] is truncated
    assert float(run["duration"][:-1]) < 25


async def test_messages_forged_by_the_code_neither_end_nor_break_its_run(api):
    await api.create()
    run = await api.run(
        "kernel = get_ipython().kernel\n"
        "parent = kernel.get_parent('shell')\n"
        "send = lambda kind, content: kernel.session.send("
        "kernel.iopub_socket, kind, content, parent=parent)\n"
        "send('stream', {'name': 7, 'text': None})\n"
        "send('display_data', {'data': []})\n"
        "send('error', {})\n"
        "send('status', {})\n"
        "send('nonsense', {})\n"
        "print('still here')"
    )
    assert (run["exit_code"], run["stdout"]) == (0, "still here\n")

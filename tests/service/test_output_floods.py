"""Much output, at full speed: in order, nothing lost below the cap, and in bounded memory."""

import base64
import hashlib

import httpx
import psutil
import pytest

from tests.support.api import Api
from tests.support.process import ServiceProcess

MEBIBYTE = 1 << 20


@pytest.fixture
def max_output_bytes():
    return MEBIBYTE


@pytest.fixture
def server(serve, max_output_bytes):
    return serve(max_output_bytes=max_output_bytes)


# Ends with prints that go through the funnel, or fails: else the tests would show nothing.
BURST = """
import sys
def burst():
    for number in range(300): print(number)
    while 'write' not in vars(sys.stdout): print(300)
    print('before')
"""

SAID_BY_OTHERS = {
    "descriptor": "import os\ndef say(): os.write(1, b'said\\n')",
    "several buffers": "import os\ndef say(): os.writev(1, [b'said', b'\\n'])",
    "C": "import ctypes\nlibc = ctypes.CDLL(None)\ndef say(): libc.write(1, b'said\\n', 5)",
    "file": "import io\nfile = io.FileIO(1, 'wb', False)\ndef say(): file.write(b'said\\n')",
    "bytes": "data = sys.stdout.buffer\ndef say(): data.write(b'said\\n')",
    "child": "import subprocess\ndef say(): subprocess.run(['echo', 'said'])",
    "system": "import os\ndef say(): os.system('echo said')",
    "fork": (
        "import os\ndef say():\n    pid = os.fork()\n    if not pid:\n"
        "        print('said')\n        os._exit(0)\n    os.waitpid(pid, 0)"
    ),
    "thread": (
        "import threading\ndef say():\n    thread = threading.Thread(target=print, args=['said'])\n"
        "    thread.start()\n    thread.join()"
    ),
}


@pytest.mark.parametrize("how", SAID_BY_OTHERS.values(), ids=SAID_BY_OTHERS.keys())
async def test_what_others_say_in_the_midst_of_a_flood_is_in_its_place(api, how):
    await api.create()
    run = await api.run(
        f"{BURST}\n{how}\nfor _ in range(20):\n    burst(); _ = say(); print('after')", timeout=60
    )
    assert run["exit_code"] == 0, run["stderr"]
    lines = [line for line in run["stdout"].splitlines() if not line.isdigit()]
    assert lines == ["before", "said", "after"] * 20


async def test_the_streams_keep_their_order_in_a_flood(api):
    await api.create()
    run = await api.run(
        f"{BURST}\nfor _ in range(20):\n    burst(); print('said', file=sys.stderr); print('after')"
    )
    said = [(output["name"], output["text"].split()) for output in run["outputs"]]
    assert [name for name, _ in said] == ["stdout", "stderr"] * 20 + ["stdout"]
    assert all(words[-1] == "before" for name, words in said[:-1] if name == "stdout")
    assert all(words[0] == "after" for name, words in said[2:] if name == "stdout")


async def test_a_display_in_the_midst_of_a_flood_is_in_its_place(api):
    await api.create()
    run = await api.run(
        f"{BURST}\nfor _ in range(5):\n    burst(); display('said'); print('after')"
    )
    outputs = run["outputs"]
    assert [output["output_type"] for output in outputs] == ["stream", "display_data"] * 5 + [
        "stream"
    ]
    assert all(output["text"].endswith("before\n") for output in outputs[:-1:2])


@pytest.mark.parametrize("write", ["os.write(1, data)", "sys.stdout.buffer.write(data)"])
async def test_a_long_write_behind_a_flood_is_not_cut_short(api, write):
    await api.create()
    run = await api.run(f"import os\n{BURST}\ndata = b'x' * 300_000\nburst()\nprint(' ', {write})")
    assert run["stdout"].endswith("before\n" + "x" * 300_000 + "  300000\n")


async def test_any_text_comes_through_a_flood_as_it_was_printed(api):
    await api.create()
    text = "aé€😀\r\n\x00|"
    run = await api.run(f"{BURST}\nburst()\nfor _ in range(3000): print({text!r})")
    assert run["stdout"].endswith("before\n" + f"{text}\n" * 3000)


@pytest.mark.parametrize("max_output_bytes", [64 * MEBIBYTE])
async def test_an_interrupt_loses_nothing_of_a_flood(api):
    await api.create(on_timeout="interrupt")
    for _ in range(5):
        run = await api.run("i = 0\nwhile True:\n    print(i)\n    i += 1", timeout=0.3)
        assert (run["memory"], run["truncated"]) == ("kept", False)
        printed = run["stdout"].split()
        assert printed == [str(number) for number in range(len(printed))]
        count = int((await api.run("i"))["text"])
        assert count in (len(printed), len(printed) - 1)


async def test_a_thread_of_an_earlier_run_does_not_speak_in_the_flood_of_a_later_one(api):
    await api.create()
    first = await api.run(
        "import threading\nstop = threading.Event()\ndef talk():\n"
        "    while not stop.wait(0.001): print('earlier')\n"
        "thread = threading.Thread(target=talk); thread.start()"
    )
    run = await api.run("for number in range(50_000): print(number)\nstop.set(); thread.join()")
    assert run["stdout"] == "".join(f"{number}\n" for number in range(50_000))
    later = await api.send("GET", f"/api/sessions/s/runs/{first['run_id']}")
    said = first["stdout"] + later.json["background"]
    assert set(said.split()) == {"earlier"}


async def test_a_task_of_an_earlier_run_does_not_speak_in_the_flood_of_a_later_one(api):
    await api.create()
    await api.run(
        "import asyncio\nasync def talk():\n"
        "    while True:\n        print('earlier')\n        await asyncio.sleep(0)\n"
        "task = asyncio.create_task(talk())"
    )
    run = await api.run(
        "for number in range(5_000):\n"
        "    print(number)\n    if number % 500 == 0: await asyncio.sleep(0.001)\ntask.cancel()"
    )
    assert run["stdout"] == "".join(f"{number}\n" for number in range(5_000))


def peak_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(peak) * 1024


MEMORY = "import resource; resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024"


@pytest.mark.parametrize(
    ("code", "size", "own"),
    [
        ("piece = 'x' * (1 << 20)\nfor _ in range(1 << 10): print(piece, end='')", 1 << 30, 0),
        ("for _ in range(1_000_000): print('x' * 99)", 100_000_000, 0),
        ("print('x' * 100_000_000)", 100_000_001, 100_000_000),
        ("import os\nfor _ in range(200): os.write(1, b'x' * (1 << 20))", 200 << 20, 0),
    ],
    ids=["1 GiB", "lines", "one line", "bytes"],
)
async def test_a_flood_costs_neither_service_nor_kernel_more_memory(code, size, own):
    with ServiceProcess(pool_min=0, pool_max=0) as service:
        async with httpx.AsyncClient(base_url=service.url, timeout=110) as http:
            api = Api(http)
            await api.create()
            before = int((await api.run(MEMORY))["text"])
            service_before = peak_bytes(service.process.pid)
            run = await api.run(code, timeout=100)
            assert (run["exit_code"], run["truncated"]) == (0, True)
            assert len(run["stdout"]) + run["truncated_bytes"] == size
            assert f"{run['truncated_bytes']} bytes of output cut" in run["stderr"]
            assert peak_bytes(service.process.pid) - service_before < 48 * MEBIBYTE
            after = int((await api.run(MEMORY))["text"])
            assert after - before - own < 64 * MEBIBYTE
    assert not psutil.pid_exists(service.process.pid)


IMAGES = """
import hashlib, os, struct, zlib
from IPython.display import Image
def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
def png():
    rows = b''.join(b'\\0' + os.urandom(1024) for _ in range(1024))
    header = struct.pack('>IIBBBBB', 1024, 1024, 8, 0, 0, 0, 0)
    return (b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', header)
            + chunk(b'IDAT', zlib.compress(rows, 0)) + chunk(b'IEND', b''))
for _ in range(COUNT):
    data = png()
    print(hashlib.sha256(data).hexdigest())
    display(Image(data=data))
"""


def images(run):
    shown = [o["data"]["image/png"] for o in run["outputs"] if o["output_type"] == "display_data"]
    return [hashlib.sha256(base64.b64decode(data)).hexdigest() for data in shown]


@pytest.mark.parametrize("max_output_bytes", [160 * MEBIBYTE])
async def test_fifty_megabytes_of_images_below_the_cap_are_complete(api):
    # Head and tail have half the bound each, and one image may not fit where the head ends.
    await api.create()
    run = await api.run(IMAGES.replace("COUNT", "50"), timeout=100)
    assert (run["exit_code"], run["truncated"]) == (0, False)
    assert len(images(run)) == 50
    assert images(run) == run["stdout"].split()


@pytest.mark.parametrize("max_output_bytes", [8 * MEBIBYTE])
async def test_images_above_the_cap_are_counted_and_the_newest_kept(api):
    await api.create()
    run = await api.run(IMAGES.replace("COUNT", "20"), timeout=100)
    assert (run["exit_code"], run["truncated"]) == (0, True)
    assert f"{run['truncated_bytes']} bytes of output cut here" in run["stderr"]
    kept, said = images(run), run["stdout"].split()
    assert 2 <= len(kept) < 20
    assert (kept[0], kept[-1]) == (said[0], said[-1])

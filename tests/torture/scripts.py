"""What runs execute: each looks at what is there, changes it, and then does something rude.

A script prints what it found as its first line, changes memory, files and data, and prints that it
has. Its own names begin with an underscore and do not count as variables.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, NamedTuple

from tests.torture.expectations import Fate

MEMORY_BYTES: Final = 256 << 20
"""What each session may use."""
HELD_BYTES: Final = MEMORY_BYTES * 45 // 100
_CHANGED: Final = "changed"
_LOOK: Final = """\
import json as _json, os as _os, time as _time
print(_json.dumps({{
    "nonce": {nonce!r},
    "names": sorted(
        _n for _n in list(globals())
        if _n[0] != "_" and _n not in ("In", "Out", "get_ipython", "exit", "quit", "open")
    ),
    "token": globals().get("token"),
    "counter": globals().get("counter", 0),
    "files": {{
        _f: open(_f).read() for _f in _os.listdir() if _f[0] != "." and not _f.startswith("go-")
    }},
    "data": _json.load(open(".session_data.json")),
    "kernel": [_os.stat("/proc/self/ns/pid").st_ino, _os.getpid()],
    "at": _time.clock_gettime(_time.CLOCK_BOOTTIME),
}}), flush=True)
token, counter = globals().get("token") or {token!r}, globals().get("counter", 0) + 1
"""
_WRITE: Final = "_ = open('.new', 'w').write({content!r}); _os.replace('.new', {path!r})\n"
_DATA_FILE: Final = ".session_data.json"
_SAY: Final = f"print({_CHANGED!r}, flush=True)\n"
_LEAVE_A_CHILD: Final = """\
if _os.fork() == 0:
    _os.setsid()
    _os.execvp("sh", ["sh", "-c", 'trap "" INT TERM HUP; sleep {mark} & wait'])
"""


def canonical(data: Mapping[str, Any]) -> str:
    """Data as a text that is the same for the same data."""
    return json.dumps(data, sort_keys=True)


def is_a_tool(path: str) -> bool:
    """Whether the file is there to let a waiting script go on."""
    return path.startswith("go-")


class Seen(NamedTuple):
    """What a run found when it began; `kernel` is its namespace of processes, and its number.

    `at` is when that was (CLOCK_BOOTTIME).
    """

    names: list[str]
    token: str | None
    counter: int
    files: dict[str, str]
    data: str
    kernel: tuple[int, int]
    at: float


@dataclass(frozen=True)
class Script:
    """Code, and what it must come to.

    `fate` is what it does to its kernel, None where the kernel goes on. `act` is done last, when
    everything else has been; `says` is what that prints. With `holds_much` the kernel holds more
    from then on than is copied behind a run.
    """

    nonce: str
    token: str
    act: str = ""
    says: str = ""
    exit_codes: frozenset[int | None] = frozenset({0})
    fate: Fate | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None
    mark: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    waits: bool = False
    holds_much: bool = False

    @property
    def go(self) -> str:
        """The file that one which waits is waiting for."""
        return f"go-{self.nonce}"

    @property
    def code(self) -> str:
        """What is executed."""
        code = _LOOK.format(nonce=self.nonce, token=self.token)
        for path, content in self.files.items():
            code += _WRITE.format(path=path, content=content)
        if self.data is not None:
            code += _WRITE.format(path=_DATA_FILE, content=self.data)
        if self.mark is not None:
            code += _LEAVE_A_CHILD.format(mark=self.mark)
        return code + _SAY + self.act

    @property
    def body(self) -> dict[str, Any]:
        """The request."""
        return {"code": self.code, **self.options}

    def seen(self, stdout: str) -> Seen | None:
        """What it found; None where it has said nothing. What else is there, is wrong."""
        first, newline, _ = stdout.partition("\n")
        if not newline:
            return None
        found = json.loads(first)
        assert found.pop("nonce") == self.nonce, f"{self.nonce} has the output of another run"
        kernel, data = tuple(found.pop("kernel")), canonical(found.pop("data"))
        return Seen(**found, data=data, kernel=kernel)

    def has_changed(self, stdout: str) -> bool:
        """Whether it has said that it made all its changes; else it may have made some."""
        return stdout.partition("\n")[2].startswith(f"{_CHANGED}\n")

    def has_said_all(self, stdout: str) -> bool:
        """Whether there is nothing missing of its output, and nothing else in it."""
        return stdout.partition("\n")[2] == f"{_CHANGED}\n{self.says}"


# ---- what they do in the end

_ENDLESS = (
    "while True: pass",
    "import time as _time; _time.sleep(60)",
    "import asyncio as _asyncio; await _asyncio.sleep(60)",
    "import subprocess as _sub; _sub.run(['sleep', '60'])",
)
_DEATHS = (
    ("_os._exit(7)", 7),
    ("_os.kill(_os.getpid(), 9)", 137),
    ("import ctypes as _ctypes; _ctypes.string_at(0)", 139),
    ("_os.abort()", 134),
)
_DEAF = """\
import time as _time
while True:
    try: _time.sleep(60)
    except BaseException: pass
"""
_WAIT = """\
import time as _time
while not _os.path.exists({go!r}): _time.sleep(0.01)
"""
_HOLD = f"""\
import mmap as _mmap
if "_held" not in globals():
    _held = _mmap.mmap(-1, {HELD_BYTES}, flags=_mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS)
    _held[::4096] = bytes(len(range(0, len(_held), 4096)))
"""
_MUCH = "".join(f"{number:09}\n" for number in range(3000))


def run(**common: Any) -> Script:
    """Ends well."""
    return Script(**common)


def much(**common: Any) -> Script:
    """Prints a lot."""
    act = "for _n in range(3000): print(f'{_n:09}')"
    return Script(act=act, says=_MUCH, **common)


def hold(**common: Any) -> Script:
    """Takes more memory than is copied, in what sleep does not keep."""
    return Script(act=_HOLD, holds_much=True, **common)


def hold_again(**common: Any) -> Script:
    """The same where copies hold as much already, which is too much where it is not the same."""
    codes = frozenset({0, 137})
    return Script(act=_HOLD, exit_codes=codes, fate=Fate.RAN_OUT, holds_much=True, **common)


def fail(**common: Any) -> Script:
    """Ends with an exception."""
    return Script(act="raise ValueError('torture')", exit_codes=frozenset({1}), **common)


def leave(**common: Any) -> Script:
    """Ends by sys.exit, which does not end the kernel."""
    return Script(act="import sys as _sys; _sys.exit(3)", exit_codes=frozenset({3}), **common)


def die(random: Random, **common: Any) -> Script:
    """Ends its kernel."""
    act, code = random.choice(_DEATHS)
    return Script(act=act, exit_codes=frozenset({code}), fate=Fate.DIED, **common)


def run_out(**common: Any) -> Script:
    """Takes more memory than there is."""
    act = "_much = b'x' * (1 << 30)"
    return Script(act=act, exit_codes=frozenset({137, 1}), fate=Fate.RAN_OUT, **common)


def time_out(random: Random, **common: Any) -> Script:
    """Goes on until its time is up."""
    options = {"timeout": 0.3, "on_timeout": "restart"}
    act, codes = random.choice(_ENDLESS), frozenset({124})
    return Script(act=act, exit_codes=codes, fate=Fate.TIMED_OUT, options=options, **common)


def give_way(random: Random, **common: Any) -> Script:
    """Goes on until its time is up, and ends when it is interrupted."""
    options = {"timeout": 0.3, "on_timeout": "interrupt"}
    act, codes = random.choice(_ENDLESS), frozenset({124})
    return Script(act=act, exit_codes=codes, fate=Fate.GAVE_WAY, options=options, **common)


def be_deaf(**common: Any) -> Script:
    """Goes on when its time is up and it is interrupted."""
    options = {"timeout": 0.3, "on_timeout": "interrupt"}
    codes = frozenset({124})
    return Script(act=_DEAF, exit_codes=codes, fate=Fate.DEAF, options=options, **common)


def later(**common: Any) -> Script:
    """Ends well, in the background."""
    return Script(options={"background": True}, **common)


def wait(nonce: str, **common: Any) -> Script:
    """Goes on in the background until a file is there."""
    script = Script(nonce, waits=True, options={"timeout": 3000, "background": True}, **common)
    return replace(script, act=_WAIT.format(go=script.go))

"""Writing a namespace and reading it back, without a kernel around it."""

import subprocess
import sys

_WRITE_AND_READ = """
import signal, sys
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
from kernelsvc.kernel_host.memory import copying, restore, save, sharing, state

def shell():
    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    return InteractiveShell.instance(config=config)

sharing.MOST_REMEMBERED = 10
order = save.Order(sys.argv[1], "token", 1 << 20, 20)
first = shell()
first.run_cell("many = [[] for _ in range(100)]; some = [many[5]]; late = (n for n in some)\\n"
               "def f(): return some\\n"
               "6 * 7", store_history=True)
copying.save(first, state.Baseline.now(), order)
second = shell()
done = restore.restore(second, sys.argv[1], "token", 20)
print(sorted(done.names), [name for name, _ in done.left_out])
second.run_cell("print(f()[0] is many[5], _, len(many))")
print(signal.getsignal(signal.SIGALRM) == signal.SIG_DFL)
"""


def test_in_a_namespace_of_very_many_objects_what_is_shared_stays_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", _WRITE_AND_READ, tmp_path / "memory"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        env={"IPYTHONDIR": str(tmp_path), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "['f', 'many', 'some'] ['late']",
        "True 42 100",
        "True",
    ]

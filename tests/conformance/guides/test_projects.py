"""What ERA's guide to projects of many files shows, for Python, with uploads as its scripts do."""

from concurrent.futures import ThreadPoolExecutor

PROJECT = {
    "main.py": b"from utils import add, upper\n"
    b"from processors.cleaner import clean\n"
    b"print(add(2, 3), upper('hello'), clean([1, None, 1]))\n",
    "utils/__init__.py": b"from .math import add\nfrom .string import upper\n",
    "utils/math.py": b"def add(a, b):\n    return a + b\n",
    "utils/string.py": b"def upper(s):\n    return s.upper()\n",
    "processors/__init__.py": b"",
    "processors/cleaner.py": b"def clean(rows):\n    return sorted({r for r in rows if r})\n",
    "data/config.json": b'{"debug": true}',
    "requirements.txt": b"",
}


def test_a_project_is_put_file_by_file_and_runs(make_session):
    session = make_session(persistent=True)
    with ThreadPoolExecutor(10) as pool:
        answers = pool.map(lambda path: session.put(path, PROJECT[path]), PROJECT)
    # ERA's scripts take nothing but 200 for success.
    assert {answer.status_code for answer in answers} == {200}
    assert session.paths() == sorted(PROJECT)
    assert session.says("exec(open('main.py').read())") == "5 HELLO [1]\n"
    assert session.says("import json; print(json.load(open('data/config.json'))['debug'])")


def test_a_script_of_the_project_runs_as_a_program(make_session):
    session = make_session()
    for path, content in PROJECT.items():
        session.put(path, content)
    said = session.says("import subprocess, sys; subprocess.run([sys.executable, 'main.py'])")
    assert said == "5 HELLO [1]\n"

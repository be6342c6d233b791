"""Realistic namespaces sleep and wake: each variable is as it was, or is named."""

import ast
import json

from tests.support.corpus import CORPUS

TESTS = {name: test for namespace in CORPUS for name, test in namespace.tests.items()}
MISSING = {name for namespace in CORPUS for name in namespace.missing}

CHECK = """
import ast as _ast, json as _json
async def _check(tests):
    passed = {}
    for name, test in tests.items():
        code = compile(test, name, 'eval', flags=_ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        try:
            value = eval(code, globals())
            passed[name] = bool(await value if code.co_flags & 0x80 else value)
        except Exception as error:
            passed[name] = repr(error)
    return passed
print(_json.dumps(await _check(_json.loads(%r))))
del _ast, _json, _check
"""
NAMES = """
import re as _re
_own = get_ipython().user_ns_hidden
print(sorted(n for n in globals() if n not in _own and not _re.fullmatch('_i?[0-9]*|_own|_re', n)))
del _re, _own
"""
CARRIED_BY_OTHERS = """
import dill as _dill, cloudpickle as _cloudpickle, json as _json
def _carried(names):
    found = []
    for name in names:
        for pickler in (_cloudpickle, _dill):
            try:
                pickler.loads(pickler.dumps(globals()[name]))
            except Exception:
                continue
            found.append(name)
            break
    return found
import os as _os
if not (_child := _os.fork()):
    # To unpickle changes what is there: classes are those that there are already.
    with open('carried', 'w') as _file:
        _json.dump(_carried(_json.loads(%r)), _file)
    _os.kill(_os.getpid(), 9)
_ = _os.waitpid(_child, 0)
print(open('carried').read())
del _dill, _cloudpickle, _json, _carried, _os, _child
"""


async def told(api, code):
    run = await api.run(code, timeout=60)
    assert run["exit_code"] == 0, run["stderr"]
    return run, ast.literal_eval(run["stdout"].replace("true", "True").replace("false", "False"))


async def failing(api):
    """The latest run, and the tests that do not pass, each with what it said."""
    run, passed = await told(api, CHECK % json.dumps(TESTS))
    return run, {name: said for name, said in passed.items() if said is not True}


async def test_every_variable_of_the_corpus_is_as_it_was_or_is_named(api):
    assert len(CORPUS) >= 30
    await api.create()
    for namespace in CORPUS:
        run = await api.run(namespace.code)
        assert run["exit_code"] == 0, (namespace.name, run["stderr"])
    assert set((await told(api, NAMES))[1]) == TESTS.keys() | MISSING
    assert (await failing(api))[1] == {}
    _, carried_by_others = await told(api, CARRIED_BY_OTHERS % json.dumps([*TESTS, *MISSING]))
    left = MISSING

    # Once more for what is made of restored objects.
    for _ in range(2):
        await api.send("POST", "/api/sessions/s/sleep")
        woken = (await api.send("POST", "/api/sessions/s/wake")).json

        assert set(woken["restored"]) == TESTS.keys()
        assert {one["name"] for one in woken["not_restored"]} == left
        run, wrong = await failing(api)
        assert wrong == {}
        assert run["memory"] == "restored"
        left = set()

    ours = TESTS.keys() & set(carried_by_others)
    assert len(ours) / len(carried_by_others) >= 0.9

"""Realistic namespaces sleep and wake: each variable is as it was, or is named."""

import json

from tests.support.corpus import CORPUS

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
CARRIED = """
import json as _json, signal as _signal, sys as _sys
import cloudpickle as _cloudpickle, dill as _dill
def _carried(names):
    found = {'cloudpickle': [], 'dill': []}
    for pickler, module in (('cloudpickle', _cloudpickle), ('dill', _dill)):
        for name in names:
            try:
                module.loads(module.dumps(globals()[name]))
                found[pickler].append(name)
            except BaseException:
                pass
    return found
print(_json.dumps(_carried(_json.loads(%r))))
"""
TESTS = {name: test for namespace in CORPUS for name, test in namespace.tests.items()}
MISSING = {name for namespace in CORPUS for name in namespace.missing}


async def checked(api, tests):
    run = await api.run(CHECK % json.dumps(tests))
    assert run["exit_code"] == 0, run["stderr"]
    return run, {n: said for n, said in json.loads(run["stdout"]).items() if said is not True}


async def test_every_variable_of_the_corpus_is_as_it_was_or_is_named(api):
    assert len(CORPUS) >= 30
    await api.create(limits={"processes": 512})
    for namespace in CORPUS:
        run = await api.run(namespace.code)
        assert run["exit_code"] == 0, (namespace.name, run["stderr"])
    names = (await api.run(NAMES))["stdout"]
    assert set(ast_list(names)) == TESTS.keys() | MISSING
    assert (await checked(api, TESTS))[1] == {}
    await api.send("POST", "/api/sessions/s/sleep")

    woken = (await api.send("POST", "/api/sessions/s/wake")).json

    restored, missing = set(woken["restored"]), {n["name"] for n in woken["not_restored"]}
    assert restored == TESTS.keys()
    assert missing == MISSING
    run, wrong = await checked(api, TESTS)
    assert wrong == {}
    assert (run["memory"], run["memory_detail"][:22]) == ("restored", "the session was asleep")


def ast_list(text):
    import ast
    return ast.literal_eval(text)

"""The protocol between service and kernel host: what is said is heard; anything else is refused."""

import dataclasses
import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelsvc.kernel_host import wire

MESSAGES = [*typing.get_args(wire.Command), *typing.get_args(wire.Report)]
VALUES = {
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    list[str]: st.lists(st.text()),
    list[int]: st.lists(st.integers()),
    dict[str, str]: st.dictionaries(st.text(), st.text()),
    dict[str, int]: st.dictionaries(st.text(), st.integers()),
}


def of(message):
    hints = typing.get_type_hints(message)
    fields = {field.name: VALUES[hints[field.name]] for field in dataclasses.fields(message)}
    return st.builds(message, **fields)


@settings(deadline=None, max_examples=500)
@given(st.one_of(*map(of, MESSAGES)))
def test_what_is_encoded_is_one_line_that_decodes_to_the_same(message):
    line = wire.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert wire.decode(line) == message


def test_every_message_has_a_name_of_its_own():
    assert len({message.name for message in MESSAGES}) == len(MESSAGES)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"{}\n",
        b"[]\n",
        b'["ready"]\n',
        b'["ready", {"kernel": 1}, 1]\n',
        b'["unknown", {"kernel": 1}]\n',
        b'[["ready"], {"kernel": 1}]\n',
        b'[null, {"kernel": 1}]\n',
        b'["ready", null]\n',
        b'["ready", [1]]\n',
        b'["ready", {}]\n',
        b'["ready", {"kernel": "1"}]\n',
        b'["ready", {"kernel": 1.0}]\n',
        b'["ready", {"kernel": true}]\n',
        b'["ready", {"kernel": null}]\n',
        b'["ready", {"kernel": 1, "more": 2}]\n',
        b'["sweep", {"kernel": 1, "since": "0"}]\n',
        b'["sweep", {"kernel": 1, "since": false}]\n',
        b'["start", {"kernel": 1, "connection_file": "f", "cwd": "/", "env": {"A": 1}}]\n',
        b'["start", {"kernel": 1, "connection_file": "f", "cwd": "/", "env": []}]\n',
        b'["fork", {"owner": 1, "groups": "/a"}]\n',
        b'["fork", {"owner": 1, "groups": [1]}]\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_line_that_is_not_of_the_protocol_is_refused(line):
    with pytest.raises(wire.WireError):
        wire.decode(line)


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=50) | st.builds(json.dumps, st.lists(st.text())).map(str.encode))
def test_no_line_raises_anything_but_a_wire_error(line):
    try:
        wire.decode(line)
    except wire.WireError:
        return
    raise AssertionError("nothing random is a message")

"""JSON as it is kept and answered."""

import json

import pytest

from kernelsvc.json_text import from_json, to_json


@pytest.mark.parametrize(
    "plain",
    [
        {"text": "Grüße 🙂", "numbers": [0, -1, 1.5, 2**53 + 1], "none": None, "yes": True},
        {"integer": 2**70, "least": -(2**70)},
        {"torn": "\ud83d", "key \udc00": 1},
        json.loads("[" * 400 + "]" * 400),
        "\x00\n\u2028\x7f",
    ],
    ids=["ordinary", "integers_over_64_bits", "lone_surrogates", "deep_nesting", "controls"],
)
def test_what_is_written_reads_back_the_same(plain):
    line = to_json(plain)
    assert b"\n" not in line
    assert from_json(line) == json.loads(line) == plain


@pytest.mark.parametrize("text", [b"", b"{", b"[1,]", b'{"a": 1} 2', b"nul"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(json.JSONDecodeError):
        from_json(text)

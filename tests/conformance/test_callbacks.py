"""`callback_url`: a finished run is sent to it, signed, until it is taken."""

import json
import re

import pytest

PRIVATE = ["http://10.0.0.1/x", "http://169.254.169.254/x", "http://[::1]/x", "http://192.168.1.1"]
NONE = ["ftp://example.com/x", "http://", "x", "http://a:b@example.com/", "//example.com"]


def test_a_finished_run_is_sent_as_it_is_shown(session, receiver):
    run_id = session.begin("print('x')", callback_url=receiver.url)
    headers, body = receiver.got.get(timeout=20)
    assert json.loads(body) == session.result(run_id)
    assert headers["content-type"].startswith("application/json")
    assert re.fullmatch(r"sha256=[0-9a-f]{64}", headers["x-kernelsvc-signature"])
    assert re.fullmatch(r"\d{10,}", headers["x-kernelsvc-timestamp"])
    assert headers["x-kernelsvc-delivery"]


def test_a_run_that_is_waited_for_is_sent_as_well(session, receiver):
    run = session.run("1 / 0", callback_url=receiver.url)
    assert json.loads(receiver.got.get(timeout=20)[1])["run_id"] == run["run_id"]


def test_what_is_not_taken_is_sent_again_under_the_same_id(session, receiver):
    receiver.statuses = [500, 302]
    session.run("1", callback_url=receiver.url)
    sent = [receiver.got.get(timeout=30) for _ in range(3)]
    assert len({headers["x-kernelsvc-delivery"] for headers, _ in sent}) == 1
    assert len({body for _, body in sent}) == 1


@pytest.mark.parametrize("callback_url", [*PRIVATE, *NONE])
def test_private_addresses_and_what_is_no_url_are_refused(session, callback_url):
    body = {"code": "1", "callback_url": callback_url}
    assert session.refused("POST", "/run", body) == {"callback_url"}

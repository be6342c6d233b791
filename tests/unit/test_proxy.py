"""What goes on of a request and its answer, and what a run's output is as an answer."""

import pytest

from kernelsvc.errors import BadGateway, InvalidRequest, RequestTooLarge
from kernelsvc.models.proxied import ProxiedRequest
from kernelsvc.models.run import Run
from kernelsvc.proxy.cookies import CookieSpace
from kernelsvc.proxy.headers import SANDBOX, Forwarded, for_client, for_server, wants_websocket
from kernelsvc.proxy.stored import answer_of
from kernelsvc.sessions.environment import MOST_BYTES, proxied_environment

COOKIES = CookieSpace("s", 80, "/proxy/s/80")
FORWARDED = Forwarded("1.2.3.4", "https", "example.com", "/proxy/s/80")


def sent(*headers, upgrade=False):
    return for_server(headers, FORWARDED, COOKIES, 80, upgrade=upgrade)


def test_what_connection_lists_is_of_one_hop_but_never_the_framing():
    passed = sent(
        ("Connection", "X-A, close"),
        ("connection", "Content-Length,x-b"),
        ("X-A", "1"),
        ("X-B", "1"),
        ("X-C", "1"),
        ("Content-Length", "5"),
    )
    assert [name for name, _ in passed if not name.startswith("X-Forwarded")] == [
        "Host",
        "X-C",
        "Content-Length",
        "Connection",
    ]
    assert passed[-1] == ("Connection", "close")


def test_a_body_in_chunks_goes_on_in_chunks():
    assert ("Transfer-Encoding", "chunked") in sent(("Transfer-Encoding", "chunked"))


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ([("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket")], True),
        ([("Connection", "upgrade"), ("Upgrade", "h2c")], False),
        ([("Connection", "close"), ("Upgrade", "websocket")], False),
        ([("Connection", "upgrade"), ("Upgrade", "websocket"), ("Upgrade", "h2c")], False),
        ([], False),
    ],
)
def test_only_websockets_are_switched_to(headers, wanted):
    assert wants_websocket(headers) is wanted


def test_an_answer_says_its_length_once_and_each_has_the_sandbox():
    given = [("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("X", "1")]
    policy = ("Content-Security-Policy", SANDBOX)
    assert for_client(given, 200, COOKIES, chunked=True) == [("X", "1"), policy]
    assert for_client(given[:1], 200, COOKIES, chunked=False) == [given[0], policy]
    assert for_client(given[:1], 204, COOKIES, chunked=False) == [policy]
    assert "allow-same-origin" not in SANDBOX
    assert "allow-popups-to-escape-sandbox" not in SANDBOX


def test_a_header_with_a_control_character_is_not_passed_on():
    with pytest.raises(BadGateway):
        for_client([("X", "a\x1bb")], 200, COOKIES, chunked=False)


def test_cookies_of_another_port_session_or_program_do_not_come_in():
    mine = COOKIES.outward("a=1")
    others = [CookieSpace("s", 81, "").outward("a=2"), CookieSpace("t", 80, "").outward("a=3")]
    assert mine is not None
    assert COOKIES.inward("; ".join(["a=4", *map(str, others), mine])) == "a=1"
    assert COOKIES.inward("a=4") == ""


@pytest.mark.parametrize(
    ("said", "attributes"),
    [
        ("a=1; Path=/; Secure", "; Path=/proxy/s/80/; Secure"),
        ("a=1; path = /x;Domain=y", "; Path=/proxy/s/80/x"),
        ("a=1; Path=relative", ""),
        ("a=1;; Max-Age=5", "; Max-Age=5"),
    ],
)
def test_a_cookie_stays_below_the_servers_path(said, attributes):
    cookie = COOKIES.outward(said)
    assert cookie is not None
    assert cookie.partition("=1")[2] == attributes


@pytest.mark.parametrize("said", ["nonsense", "=1", ""])
def test_what_is_no_cookie_is_dropped(said):
    assert COOKIES.outward(said) is None


def request(body=b"", headers=()):
    return ProxiedRequest("GET", "/", "", list(headers), body)


def test_repeated_headers_are_one_and_a_body_is_read_as_utf_8():
    told = proxied_environment(request(b"\xe4\xff", [("A", "1"), ("a", "2")]))
    assert told["ERA_HTTP_HEADERS"] == '{"a": "1, 2"}'
    assert told["ERA_HTTP_BODY"] == "\ufffd\ufffd"


def test_what_no_environment_could_hold_is_refused():
    proxied_environment(request(b"x" * MOST_BYTES))
    with pytest.raises(RequestTooLarge):
        proxied_environment(request(b"x" * (MOST_BYTES + 1)))
    with pytest.raises(RequestTooLarge):
        # Each of these bytes becomes three.
        proxied_environment(request(b"\xff" * (MOST_BYTES // 2)))
    with pytest.raises(RequestTooLarge):
        proxied_environment(request(headers=[("A", '"' * (MOST_BYTES // 2))]))
    with pytest.raises(InvalidRequest):
        proxied_environment(request(b"a\0b"))


@pytest.mark.parametrize(
    ("headers", "sent_on"),
    [
        ('{"Bad Name": "1", "Good": "1"}', [("Good", "1")]),
        ('{"A": "a\\r\\nB: c"}', []),
        ('{"A": "\\u2603"}', []),
        ('{"A": true, "B": 5, "C": null}', [("A", "true"), ("B", "5"), ("C", "null")]),
        ('["A"]', []),
    ],
)
def test_only_what_can_be_a_header_is_one(headers, sent_on):
    run = Run(
        run_id="r",
        session_id="s",
        status="completed",
        language="python",
        exit_code=0,
        stdout=f'{{"headers": {headers}}}\n',
        started_at=None,
    )
    answer = answer_of(run)
    assert answer.headers == [*sent_on, ("Content-Type", "application/json")]
    assert answer.body == f'{{"headers": {headers}}}'.encode()

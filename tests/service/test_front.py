"""The HTTP front: hosts, pages in browsers, TLS, limits, slow clients, query parameters."""

import asyncio
import json
import ssl
import time
from contextlib import asynccontextmanager

import pytest
import trustme
from httpx import AsyncClient

from kernelsvc.app import serving
from kernelsvc.client import Client
from kernelsvc.errors import CannotStart
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.keys import bearer
from tests.support.problems import everything, fields_of, problem_of, raw

KEY = "a-key-from-the-configuration"
PAGE = "https://app.example.com"


@asynccontextmanager
async def served(make_settings, **changes):
    """A client of a service with these settings; it has the key, where there is one."""
    settings = make_settings(**changes)
    headers = bearer(KEY) if settings.api_key else {}
    async with (
        serving(settings) as server,
        AsyncClient(base_url=server.url, timeout=30, headers=headers) as http,
    ):
        yield Api(http)


# ---- hosts


async def get(api, **headers):
    return await api.http.get("/api/sessions", headers=headers)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost:1", "127.0.0.1:65535",
             "[::1]:8787"],
)  # fmt: skip
async def test_on_loopback_its_names_are_served_with_any_port(api, host):
    assert (await get(api, host=host)).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8787", "localhost.evil.example", "127.0.0.1.nip.io",
             "evil-localhost", "0.0.0.0", "[::]", "127.0.0.2", "localhost:80:80", "::1", "x"],
)  # fmt: skip
async def test_on_loopback_a_name_of_somebody_elses_is_refused_and_does_nothing(api, host):
    before = await everything(api)
    for method, path, body in (
        ("POST", "/api/sessions", '{"language": "python"}'),
        ("GET", "/api/sessions", ""),
        ("GET", "/health/live", ""),
        ("GET", "/nothing", ""),
    ):
        headers = {"Host": host, "Content-Type": "application/json"}
        answer = await api.http.request(method, path, content=body, headers=headers)
        problem = problem_of(answer, 421, "misdirected_request")
        assert "allowed_hosts" in problem["error"]
    assert await everything(api) == before


async def test_hosts_of_the_configuration_are_served_too(make_settings):
    configured = {
        "allowed_hosts": "dev.example, Other.example:99",
        "base_url": "http://base.example:5",
    }
    async with served(make_settings, **configured) as api:
        for host in ("dev.example", "dev.example:8", "other.example:99", "base.example:5"):
            assert (await get(api, host=host)).status_code == 200, host
        for host in ("other.example", "other.example:98", "sub.dev.example", "base.example:6"):
            assert (await get(api, host=host)).status_code == 421, host


async def test_beyond_loopback_every_host_is_served_unless_some_are_configured(make_settings):
    async with served(make_settings, host="0.0.0.0", api_key=KEY) as api:
        assert (await get(api, host="any.example")).status_code == 200
    limited = {"host": "0.0.0.0", "api_key": KEY, "allowed_hosts": "dev.example"}
    async with served(make_settings, **limited) as api:
        assert (await get(api, host="dev.example")).status_code == 200
        assert (await get(api, host="any.example")).status_code == 421


# ---- pages in browsers


async def test_pages_elsewhere_are_refused_and_nothing_of_theirs_runs(api):
    await api.create(persistent=False)
    before = await everything(api)
    for origin in ("https://evil.example", "null", "http://localhost:1", PAGE):
        for method, path, body in (
            ("POST", "/api/sessions/s/run", '{"code": "1"}'),
            ("POST", "/api/sessions/s/restart", ""),
            ("DELETE", "/api/sessions", ""),
            ("GET", "/api/sessions", ""),
        ):
            answer = await api.http.request(method, path, content=body, headers={"Origin": origin})
            problem = problem_of(answer, 403, "forbidden")
            assert "cors_origins" in problem["error"]
            assert not [name for name in answer.headers if name.startswith("access-control")]
    assert await everything(api) == before


async def test_our_own_pages_are_served(api, server, make_settings):
    assert (await get(api, origin=server.url)).status_code == 200
    base = {"base_url": "https://kernels.example"}
    async with served(make_settings, **base, data_dir=make_settings().data_dir / "other") as other:
        assert (await get(other, origin="https://kernels.example")).status_code == 200
        assert (await get(other, origin="http://kernels.example")).status_code == 403


async def test_without_cors_a_preflight_gets_nothing(api):
    headers = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    answer = await api.http.options("/api/sessions", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "vary" not in (await get(api)).headers


async def test_a_configured_page_may_use_the_api_and_no_other(make_settings):
    async with served(
        make_settings, cors_origins=f"{PAGE}, http://b.example:81", api_key=KEY
    ) as api:
        for origin in (PAGE, "http://b.example:81"):
            answer = await get(api, origin=origin)
            assert answer.status_code == 200
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert answer.headers["Vary"] == "Origin"
            assert "Access-Control-Allow-Credentials" not in answer.headers
        for origin in (f"{PAGE}.evil.example", "https://evil.example", f"{PAGE}:444", "http://b.example",
                       "null", "http://app.example.com"):  # fmt: skip
            answer = await get(api, origin=origin)
            assert answer.status_code == 403
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert answer.headers["Vary"] == "Origin"
        assert (await get(api)).headers["Vary"] == "Origin"


async def test_a_configured_page_can_read_refusals(make_settings):
    async with served(make_settings, cors_origins=PAGE, api_key=KEY) as api:
        for path, key, status in (("/nothing", KEY, 404), ("/api/sessions", "wrong", 401),
                                  ("/api/sessions?x=1", KEY, 400)):  # fmt: skip
            answer = await api.http.get(path, headers={"Origin": PAGE, **bearer(key)})
            assert answer.status_code == status
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE


async def test_a_preflight_of_a_configured_page_is_answered_without_a_key(make_settings):
    async with served(make_settings, cors_origins=PAGE, api_key=KEY) as api:
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "authorization,content-type",
            "Authorization": "",
        }
        answer = await api.http.options("/api/sessions/s", headers=asked)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "PATCH" in answer.headers["Access-Control-Allow-Methods"].split(", ")
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
        assert int(answer.headers["Access-Control-Max-Age"]) > 0
        # The request behind it needs the key, as ever.
        headers = {"Origin": PAGE, "Authorization": ""}
        answer = await api.http.patch("/api/sessions/s", headers=headers, json={})
        assert answer.status_code == 401


async def test_who_sends_no_origin_is_not_concerned(make_settings):
    async with served(make_settings, cors_origins=PAGE) as api:
        assert (await get(api)).status_code == 200


# ---- headers


@pytest.mark.parametrize(("path", "status"), [("/health/live", 200), ("/api/sessions", 200),
                                              ("/nothing", 404)])  # fmt: skip
async def test_every_answer_tells_browsers_to_make_nothing_of_it(api, path, status):
    answer = await api.http.get(path)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    policy = answer.headers["Content-Security-Policy"]
    assert policy == "default-src 'none'; frame-ancestors 'none'"


# ---- query parameters


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/sessions"), ("DELETE", "/api/sessions"), ("GET", "/api/sessions/s"),
     ("PATCH", "/api/sessions/s"), ("DELETE", "/api/sessions/s"), ("POST", "/api/sessions/s/run"),
     ("GET", "/api/sessions/s/runs"), ("GET", "/api/sessions/s/runs/r"),
     ("POST", "/api/sessions/s/interrupt"), ("POST", "/api/sessions/s/restart"),
     ("POST", "/api/sessions/s/sleep"), ("POST", "/api/sessions/s/wake"), ("GET", "/health/live"),
     ("GET", "/health/ready")],
)  # fmt: skip
async def test_unknown_query_parameters_are_named_and_change_nothing(api, method, path):
    await api.create(persistent=False)
    before = await everything(api)
    answer = await raw(api, method, f"{path}?limit=1&timeout=5&x", '{"code": "1"}')
    problem = problem_of(answer, 400, "invalid_request")
    assert fields_of(problem) == ["limit", "timeout", "x"]
    assert await everything(api) == before


async def test_a_method_that_is_not_served_is_405_whatever_the_query(api):
    answer = await raw(api, "PUT", "/api/sessions?x=1", None)
    problem_of(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, POST, DELETE"


async def test_a_query_parameter_that_is_given_twice_is_named(api):
    problem = problem_of(await raw(api, "GET", "/api/sessions?limit=1&limit=2", ""), 400,
                         "invalid_request")  # fmt: skip
    assert problem["details"] == [{"field": "limit", "message": "is given more than once"}]


async def test_at_no_path_a_query_is_still_404(api):
    problem_of(await api.http.get("/nothing?x=1"), 404, "not_found")


# ---- TLS


@pytest.fixture
def certificate(tmp_path):
    """A certificate's and its key's file, and a context that trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    pem, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    pem.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return pem, key, trusting


async def test_over_tls_the_service_is_at_an_https_url(make_settings, certificate):
    pem, key, trusting = certificate
    async with serving(make_settings(tls_certificate=pem, tls_key=key)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        async with AsyncClient(base_url=server.url, verify=trusting, timeout=60) as http:
            api = Api(http)
            await api.create()
            run = await api.run("import os; print(os.environ['ERA_BASE_URL'])")
            assert run["stdout"].strip() == server.url
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(unverified, server.url)


def unverified(url):
    with Client(url) as client:
        client.session("s")


async def test_without_tls_nothing_is_served_on_a_tls_port(make_settings, certificate):
    pem, key, _ = certificate
    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(make_settings(tls_certificate=pem, tls_key=key)) as server:
        assert "HTTP/1" not in await exchange(server.url, request)


@pytest.mark.parametrize("wrong", ["tls_certificate", "tls_key"])
@pytest.mark.parametrize("how", ["absent", "nonsense", "directory", "another's"])
async def test_a_wrong_tls_file_keeps_the_service_from_starting_and_is_named(
    make_settings, certificate, tmp_path, wrong, how
):
    bad = tmp_path / "bad.pem"
    match how:
        case "nonsense":
            bad.write_text("nonsense")
        case "directory":
            bad.mkdir()
        case "another's":
            other = trustme.CA().issue_cert("localhost")
            pem = other.cert_chain_pems[0] if wrong == "tls_certificate" else other.private_key_pem
            pem.write_to_path(str(bad))
    files = {"tls_certificate": certificate[0], "tls_key": certificate[1], wrong: bad}
    with pytest.raises(CannotStart, match=r"bad\.pem"):
        async with serving(make_settings(**files)):
            pass


# ---- limits, and clients that are slow on purpose


async def exchange(url, request):
    """What a service answers to bytes; "" where it hangs up."""
    async with connection(url) as (reader, writer):
        writer.write(request)
        try:
            return (await asyncio.wait_for(reader.read(200), 5)).decode()
        except ConnectionResetError:
            return ""


@pytest.mark.parametrize(("size", "is_taken"), [(1500, True), (2500, False)])
async def test_headers_are_taken_up_to_their_limit(make_settings, size, is_taken):
    head = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: "
    request = f"{head}{'x' * size}\r\n\r\n".encode()
    async with serving(make_settings(max_header_bytes=2048)) as server:
        answer = await exchange(server.url, request)
        assert answer.startswith("HTTP/1.1 200 ") is is_taken
        assert is_taken or not answer.startswith("HTTP/1.1 2")


async def trickled(url, head, rest):
    """Send `head` at once and `rest` byte by byte; the seconds until the service hangs up."""
    async with connection(url) as (reader, writer):
        began = time.monotonic()
        writer.write(head)
        end = asyncio.create_task(reader.read())
        for byte in rest:
            if end.done():
                break
            writer.write(bytes([byte]))
            await asyncio.wait([end], timeout=0.05)
        assert end.done(), "everything was sent, and taken"
        try:
            answer = end.result()
        except ConnectionError:
            answer = b""
        assert not answer.startswith(b"HTTP/1.1 2")
        return time.monotonic() - began


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100),
        (b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n",
         b'{"language": "python", "metadata": {' + b" " * 400),
        (b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
         b"1\r\n \r\n" * 100),
    ],
    ids=["headers", "body", "chunks"],
)  # fmt: skip
async def test_a_client_that_trickles_is_hung_up_on_however_busy_it_looks(
    make_settings, head, rest
):
    async with serving(make_settings(header_timeout=0.5)) as server:
        assert 0.4 < await trickled(server.url, head, rest) < 5
        async with AsyncClient(base_url=server.url) as http:
            assert (await http.get("/health/live")).status_code == 200
            assert (await http.get("/api/sessions")).json()["count"] == 0


async def test_a_trickle_that_ends_in_time_is_answered(make_settings):
    body = json.dumps({"language": "cobol"}).encode()
    head = b"POST /api/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    async with (
        serving(make_settings(header_timeout=20)) as server,
        connection(server.url) as (reader, writer),
    ):
        for byte in head + body:
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await asyncio.wait_for(reader.read(20), 5)).startswith(b"HTTP/1.1 400 ")

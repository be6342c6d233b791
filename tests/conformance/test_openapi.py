"""The service does what its OpenAPI document says, whatever is asked of it.

Schemathesis makes requests from the document, right and wrong ones, for each operation, and checks
what is answered: no server error, no status, header, content type or body that the document does
not tell, and no wrong request that is taken.
"""

import io
import tarfile

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from kernelsvc.api.routes import document
from tests.support.process import ServiceProcess

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
SESSION = {"language": "python", "session_id": "s"}
EXAMPLES = 40


def packed(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
archives = st.dictionaries(names, st.binary(max_size=100), max_size=5).map(packed)
schemathesis.openapi.media_type("application/octet-stream", st.binary(max_size=1000))
schemathesis.openapi.media_type("application/gzip", archives | st.binary(max_size=1000))

# What relays requests does the same for each method.
schema = schemathesis.openapi.from_dict(document()).exclude(
    path_regex="^/proxy/", method=["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"]
)


@pytest.fixture(scope="module")
def url():
    """A service with room for whatever is made, and a few kernels, which come quickly."""
    few = {"pool_max": 2, "max_kernels": 4, "default_timeout": 2, "max_timeout": 5}
    with ServiceProcess(**few, setup_internet=False, setup_timeout=1) as process:
        yield process.url


@pytest.fixture(scope="module")
def http(url):
    """Prepares what is asked about; one client for all, which takes longer to make than to use."""
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def prepare(http: httpx.Client) -> None:
    """A session with a run and a file, whatever the request before has done."""
    if http.post("/api/sessions", json=SESSION).status_code == 201:
        http.put("/api/sessions/s/files/f", content=b"content").raise_for_status()
        # Another one, in which no code is ever stored.
        http.post("/api/sessions", json={**SESSION, "session_id": "empty"})


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_service_answers_as_the_document_says(case, url, http):
    prepare(http)
    if "session_id" in case.path_parameters and case.method != "DELETE":
        is_proxied = case.path.startswith("/proxy/")
        case.path_parameters["session_id"] = "empty" if is_proxied else "s"
    if case.path == "/api/execute" and case.meta.generation.mode.is_positive:
        # Under limits that leave no room for a kernel, the answer is a 503; a way to the internet
        # takes longer to make than everything else.
        for name in ("limits", "allowInternetAccess"):
            case.body.pop(name, None)
    answer = case.call(base_url=url)
    # That nothing is there to answer in its place is said as by any gateway.
    is_no_fault = answer.status_code == 502 and (
        case.method == "HEAD" or b'"no_listener"' in (answer.content or b"")
    )
    checks = [each for each in CHECKS if not (is_no_fault and each is not_a_server_error)]
    case.validate_response(answer, checks=checks)

"""Keys, where the service asks for them."""

import httpx
import pytest

from tests.conformance.client import problem_of


@pytest.fixture(scope="module")
def stranger(url):
    """A client without a key."""
    with httpx.Client(base_url=url, timeout=30) as http:
        yield http


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/sessions"), ("POST", "/api/sessions"), ("DELETE", "/api/sessions"),
     ("GET", "/api/sessions/x"), ("POST", "/api/sessions/x/run"), ("GET", "/metrics"),
     ("PUT", "/api/sessions/x/files/f"), ("GET", "/api/nothing")],
)  # fmt: skip
def test_without_a_key_it_is_401(stranger, key, method, path):
    answer = stranger.request(method, path)
    problem_of(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_wrong_key_is_told_the_same_as_none(stranger, key):
    for given in ("Bearer wrong", f"Bearer {key}x", f"Basic {key}", key, "Bearer"):
        answer = stranger.get("/api/sessions", headers={"Authorization": given})
        problem_of(answer, 401, "unauthorized")


def test_the_key_lets_in(stranger, key):
    headers = {"Authorization": f"Bearer {key}"}
    assert stranger.get("/api/sessions", headers=headers).status_code == 200


def test_probes_and_the_description_need_no_key(stranger, key):
    for path in ("/health", "/health/live", "/health/ready", "/openapi.json", "/docs"):
        assert stranger.get(path).status_code == 200

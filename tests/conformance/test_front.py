"""The service itself: probes, its description, and what holds for every answer."""

import pytest
from openapi_spec_validator import validate


def test_a_service_at_work_is_live_and_ready(client):
    for path in ("/health/live", "/health/ready"):
        assert client.answer("GET", path) == {"status": "ok"}


def test_its_health_is_told_as_eras_clients_ask_for_it(client):
    health = client.answer("GET", "/health")
    assert health["status"] == "healthy"
    assert health["timestamp"].endswith("Z")
    assert health["version"]


def test_it_describes_itself_as_openapi(client):
    document = client.answer("GET", "/openapi.json")
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert {"get", "post", "delete"} <= document["paths"]["/api/sessions"].keys()
    assert "post" in document["paths"]["/api/sessions/{session_id}/run"]


def test_its_description_is_a_page_as_well(client):
    answer = client.send("GET", "/docs")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/api/sessions", "/health", "/nothing"])
def test_every_answer_is_json_in_utf8_that_nobody_keeps(client, path):
    headers = client.send("GET", path).headers
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"

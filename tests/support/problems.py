"""What every refusal must look like: API.md's error object."""

import json
import re
from typing import Any

import httpx

from tests.support.api import Api


async def raw(
    api: Api, method: str, path: str, content: str | bytes, kind: str = "application/json"
) -> httpx.Response:
    """Send a body as it stands; the client must not mend or refuse it."""
    return await api.http.request(method, path, content=content, headers={"Content-Type": kind})


async def everything(api: Api) -> Any:
    """All that a refused request could have changed, as the API shows it."""
    answer = await api.send("GET", "/api/sessions?limit=1000")
    assert answer.status == 200, answer
    histories = [
        (await api.send("GET", f"/api/sessions/{session['id']}/runs")).json
        for session in answer.json["sessions"]
    ]
    return answer.json, histories


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer's error object; asserts its shape, its status and its code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    problem: dict[str, Any] = json.loads(answer.content)
    assert problem.keys() - {"details"} == {"error", "code", "request_id"}
    assert problem["code"] == code
    assert re.fullmatch(r"req_[0-9a-f]{16}", problem["request_id"])
    assert isinstance(problem["error"], str)
    assert problem["error"].strip()
    assert "Traceback" not in problem["error"]
    if "details" in problem:
        assert problem["details"]
        for detail in problem["details"]:
            assert detail.keys() == {"field", "message"}
            assert all(isinstance(text, str) and text for text in detail.values())
    return problem


def fields_of(problem: dict[str, Any]) -> list[str]:
    """The fields that the error object names."""
    return [detail["field"] for detail in problem["details"]]


async def refused(
    api: Api,
    method: str,
    path: str,
    content: str | bytes,
    *,
    status: int = 400,
    code: str = "invalid_request",
    kind: str = "application/json",
) -> dict[str, Any]:
    """Send a request that must be refused and change nothing; returns the error object."""
    before = await everything(api)
    answer = await raw(api, method, path, content, kind)
    problem = problem_of(answer, status, code)
    assert await everything(api) == before
    return problem

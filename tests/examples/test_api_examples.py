"""The API's examples do what they show: each is made as the page of the API shows it, by curl.

An example finds what its path names: a session, a file in it, stored code, and a run, whose id
takes the place of the one that is shown. Where its path names no session there is none.
"""

import json
import re
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator, ValidationError

from kernelsvc.api.curl import curl
from kernelsvc.api.openapi import EXAMPLE
from kernelsvc.api.routes import document
from tests.examples.shell import Service, bash

PATHS: dict[str, dict[str, Any]] = document()["paths"]
OPERATIONS = [(path, method) for path, methods in PATHS.items() for method in methods]
SESSION = "/api/sessions/example"
RUN_SHOWN = "run_8d0b7f2f6c1c4f3a9e5d2b10"
# What is another time or another number each time.
VARYING = {"run_id", "duration", "queued_at", "started_at", "usage", "execution_count",
           "uploaded", "modified_at", "deleted_at", "updated_at", "timestamp"}  # fmt: skip


def prepare(http: httpx.Client, path: str) -> str:
    """Make what the path names; the id of a run, where it names one."""
    if "{session_id}" not in path:
        http.delete("/api/sessions").raise_for_status()
        return RUN_SHOWN
    made = http.post("/api/sessions", json={"language": "python", "session_id": "example"})
    assert made.status_code in (201, 409)
    http.put(f"{SESSION}/files/a.csv", content=b"n,square\n2,4\n").raise_for_status()
    http.put(f"{SESSION}/code", json={"code": "print(6 * 7)"}).raise_for_status()
    if "{run_id}" not in path:
        return RUN_SHOWN
    run = http.post(f"{SESSION}/run", json={"code": 'print("hello")'}).raise_for_status()
    return str(run.json()["run_id"])


def steady(value: Any) -> Any:
    """A JSON value without what varies."""
    match value:
        case dict():
            return {name: steady(item) for name, item in value.items() if name not in VARYING}
        case list():
            return [steady(item) for item in value]
        case _:
            return value


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document()["components"]})


def made(command: str, directory: Path) -> tuple[str, str, str]:
    """What a command answers: status, content type, body."""
    written = "-sS -o answer -w '%{http_code} %{content_type}'"
    done = bash(command.replace("curl ", f"curl {written} ", 1), directory)
    assert (done.returncode, done.stderr) == (0, ""), command
    status, _, kind = done.stdout.partition(" ")
    return status, kind.partition(";")[0], (directory / "answer").read_text(errors="replace")


def check(service: Service, directory: Path, path: str, method: str) -> None:
    """Make an operation's example; raises where it is not answered as the document says."""
    said = PATHS[path][method]
    with httpx.Client(base_url=service.url, timeout=60) as http:
        run_id = prepare(http, path)
        if path.endswith("/archive"):
            archive = http.get(f"{SESSION}/archive").raise_for_status().content
            directory.joinpath("example.tar.gz").write_bytes(archive)
    command = curl(service.url, path, method, said).replace(RUN_SHOWN, run_id)
    status, kind, body = made(command, directory)
    assert status.startswith("2"), f"{status}: {body}"
    content = said["responses"][status].get("content")
    if method == "head" or not content:
        return
    told = content[kind if kind in content else "*/*"]
    if "schema" in told:
        validator(told["schema"]).validate(json.loads(body))
    for example in told.get("examples", {}).values():
        validator(told["schema"]).validate(example["value"])
        assert steady(json.loads(body)) == steady(example["value"])


def test_every_example_is_answered_as_the_document_says(service, tmp_path):
    wrong = []
    for path, method in OPERATIONS:
        try:
            check(service, tmp_path, path, method)
        except (AssertionError, ValidationError, KeyError, httpx.HTTPError) as error:
            wrong.append(f"{method.upper()} {path}: {type(error).__name__} {error}")
    assert not wrong, "\n\n".join(wrong)


def test_the_page_shows_the_very_commands(service):
    page = httpx.get(f"{service.url}/docs").text
    shown = re.findall(r"<pre><code>(curl .*?)</code></pre>", page, re.DOTALL)
    assert len(shown) == len(OPERATIONS)
    for (path, method), found in zip(OPERATIONS, shown, strict=True):
        command = curl(service.url, path, method, PATHS[path][method])
        plain = found.replace("&quot;", '"').replace("&#x27;", "'").replace("&amp;", "&")
        assert plain.replace("&lt;", "<").replace("&gt;", ">") == command


def test_an_example_that_is_not_as_the_document_says_is_found_out(service):
    """The negative control: an answer of another shape, and one with another value."""
    (answer,) = PATHS["/health/live"]["get"]["responses"]["200"]["content"].values()
    assert answer["examples"][EXAMPLE]["value"] == {"status": "ok"}
    assert not validator(answer["schema"]).is_valid({"status": "sick"})
    assert steady({"a": [{"usage": 1, "b": 1}]}) == {"a": [{"b": 1}]} != steady({"a": [{"b": 2}]})

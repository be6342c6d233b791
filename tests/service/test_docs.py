"""/openapi.json and /docs, as they are served."""

import base64
import hashlib
import re

import httpx

from kernelsvc.api.routes import document
from tests.support.process import ServiceProcess


async def test_the_document_is_served_as_json(api):
    answer = await api.http.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.json() == document()


async def test_the_page_shows_every_operation_and_every_model(api):
    page = (await api.http.get("/docs")).text
    for path, ways in document()["paths"].items():
        for method, said in ways.items():
            assert f'<section id="{said["operationId"]}">' in page
            assert f"{method.upper()}</span> {path}</h2>" in page
    for name in document()["components"]["schemas"]:
        assert f'<section id="{name}">' in page
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets <= set(re.findall(r'id="([^"]+)"', page))


async def test_commands_on_the_page_go_to_where_it_was_asked_for(api, server):
    page = (await api.http.get("/docs", headers={"Host": "localhost:99"})).text
    assert "curl -X POST http://localhost:99/api/execute" in page
    assert server.url not in page


async def test_browsers_take_the_page_s_own_style_and_nothing_else(api):
    answer = await api.http.get("/docs")
    (style,) = re.findall("<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "<script" not in answer.text
    assert not re.search(r"\b(src|srcset|action)=|url\(|@import", answer.text)
    assert all(re.match("#|/", target) for target in re.findall('href="([^"]*)"', answer.text))


def test_both_are_served_without_a_key():
    with ServiceProcess(api_key="0123456789abcdefghijklmn", pool_max=0) as process:
        for path in ("/openapi.json", "/docs"):
            assert httpx.get(process.url + path).status_code == 200
        assert httpx.get(process.url + "/api/sessions").status_code == 401

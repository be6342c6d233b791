"""What a service never tells: keys, headers and user code, at any level of its log."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from httpx import AsyncClient
from pydantic import ValidationError

from kernelsvc.settings import load_settings
from kernelsvc.store.database import Database
from kernelsvc.store.runs import RunStore
from kernelsvc.store.sessions import SessionStore
from tests.support.api import Api
from tests.support.connection import connection
from tests.support.keys import bearer, make_key
from tests.support.process import ServiceProcess

CONFIGURED = "configured-key-marker"
MARKERS = ["configured-key-marker", "wrong-key-marker", "code-marker", "output-marker",
           "header-marker", "Bearer", "data-marker", "env-marker"]  # fmt: skip


@pytest.mark.parametrize("form", ["json", "human"])
async def test_no_key_no_header_and_no_code_is_in_the_log_at_any_level(make_settings, form):
    with tempfile.TemporaryFile("w+") as log:
        settings = {"api_key": CONFIGURED, "log_level": "debug", "log_format": form}
        with ServiceProcess(stderr=log, **settings) as service:
            made = load_settings(data_dir=Path(service.directory) / "data")
            key = await make_key(made, "alice")
            await use(service.url, key)
        log.seek(0)
        said = log.read()
    assert "run_finished" in said
    assert "request_answered" in said
    assert [marker for marker in [*MARKERS, key, key.split("_")[2]] if marker in said] == []


async def use(url, key):
    """Do everything that could make a service say too much."""
    async with AsyncClient(base_url=url, timeout=60) as http:
        api = Api(http)
        for each in (CONFIGURED, key):
            http.headers.update(bearer(each))
            name = "s" if each == key else "t"
            await api.create(name, data={"a": "data-marker"}, env={"A": "env-marker"})
            run = await api.run("print('output-' 'marker')  # code-marker", name)
            assert run["stdout"] == "output-marker\n"
            assert (await api.run("code-marker-raises", name))["exit_code"] == 1
            body = {"code": "code-marker", "timeout": "header-marker"}
            await api.send("POST", f"/api/sessions/{name}/run", body)
        for wrong in ("wrong-key-marker", f"{key}0"):
            answer = await http.get("/api/sessions", headers=bearer(wrong))
            assert answer.status_code == 401
    for malformed in (
        f"Authorization Bearer {key}",
        f"Authorization: Bearer {key}\x01",
        f"Authorization: Bearer {CONFIGURED}\0",
        f"Authorization Bearer {key}: x",
        f" Bearer {key}",
        "X: header-marker\x07",
        "Host: header-marker/",
        "Content-Length: header-marker",
    ):
        async with connection(url) as (reader, writer):
            writer.write(f"GET /api/sessions HTTP/1.1\r\n{malformed}\r\n\r\n".encode())
            assert b" 200 " not in await asyncio.wait_for(reader.read(100), 5)


async def test_what_a_statement_fails_with_tells_nothing_of_its_values(tmp_path, monkeypatch):
    from tests.unit.test_store import record, run_of

    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    await database.open()
    await SessionStore(database).add(record())
    runs = RunStore(database, keep=3)
    await runs.finish(run_of(), 1, "1")
    with pytest.raises(Exception, match="UNIQUE") as failed:
        await runs.finish(run_of(stdout="output-marker"), 2, "code-marker")
    await database.close()
    assert "marker" not in str(failed.value)


def test_the_configured_key_is_not_in_what_settings_show(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(api_key=CONFIGURED)
    for shown in (repr(settings), str(settings), repr(settings.model_dump()),
                  settings.model_dump_json()):  # fmt: skip
        assert CONFIGURED not in shown
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == CONFIGURED


@pytest.mark.parametrize(
    "given",
    [{"api_key": f"{CONFIGURED} {CONFIGURED}"}, {"api_key": CONFIGURED, "max_timeout": 1},
     {"api_kye": CONFIGURED}, {"api_key": [CONFIGURED]}],
)  # fmt: skip
def test_an_error_in_the_settings_does_not_quote_the_key(monkeypatch, tmp_path, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError) as refused:
        load_settings(**given)
    assert CONFIGURED not in str(refused.value)


async def test_code_does_not_find_the_configured_key_in_its_environment(make_settings):
    with ServiceProcess(api_key=CONFIGURED) as service:
        async with AsyncClient(
            base_url=service.url, headers=bearer(CONFIGURED), timeout=60
        ) as http:
            api = Api(http)
            await api.create()
            run = await api.run("import os; dict(os.environ)")
    assert "ERA_SESSION_ID" in run["text"]
    assert CONFIGURED not in json.dumps(run)


def test_the_database_holds_no_key(tmp_path):
    command = [
        sys.executable,
        "-m",
        "kernelsvc",
        "keys",
        "create",
        "x",
        "--data-dir",
        str(tmp_path),
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KERNELSVC_")}
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    key = made.stdout.strip()
    with sqlite3.connect(tmp_path / "kernelsvc.db") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    _, key_id, secret = key.split("_")
    assert key_id in dump
    assert secret not in dump
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())

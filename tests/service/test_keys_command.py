"""`kernelsvc keys`, and `kernelsvc run` on a service that needs one."""

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from httpx import AsyncClient

from kernelsvc import clock
from kernelsvc.app import serving
from kernelsvc.cli.main import main
from kernelsvc.client import Client, ServiceError
from tests.support.keys import bearer, clients
from tests.support.waiting import eventually

KEY = re.compile(r"ks_([0-9a-f]{12})_([0-9a-f]{40,})")


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.upper().startswith("KERNELSVC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kernelsvc(monkeypatch, capsys):
    """Run a command in this process; returns its status, output and errors."""

    async def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["kernelsvc", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            await asyncio.to_thread(main)
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return call


@pytest.fixture
def keys(kernelsvc, tmp_path):
    """`kernelsvc keys` on the data directory of the tests' services."""

    async def call(command, *arguments):
        return await kernelsvc("keys", command, "--data-dir", tmp_path / "data", *arguments)

    return call


async def created(keys, *arguments):
    status, out, err = await keys("create", "test", *arguments)
    assert status == 0, err
    assert KEY.fullmatch(out.strip())
    return out.strip()


async def listed(keys):
    status, out, err = await keys("list", "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


# ---- the commands


async def test_a_key_is_shown_once_and_never_again(keys):
    status, out, err = await keys("create", "ci")
    key_id, secret = KEY.fullmatch(out.strip()).groups()
    assert status == 0
    assert key_id in err
    assert secret not in err
    for arguments in (
        ("list",),
        ("list", "--json"),
        ("revoke", key_id),
        ("revoke", key_id, "--json"),
    ):
        status, out, err = await keys(*arguments)
        assert status == 0
        assert key_id in out
        assert secret not in out + err


async def test_a_key_before_the_first_start_makes_a_private_data_directory(keys, tmp_path):
    await created(keys)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


async def test_what_was_asked_for_is_what_is_listed(keys):
    before = clock.now().replace(microsecond=0)
    status, out, _ = await keys(
        "create", "CI of ümlaut", "--owner", "team@example", "--admin", "--expires", "30d",
        "--max-sessions", "5", "--max-parallel-runs", "2", "--max-runs-per-minute", "60", "--json",
    )  # fmt: skip
    made = json.loads(out)
    assert status == 0
    assert KEY.fullmatch(made.pop("key"))[1] == made["id"]
    assert await listed(keys) == [made]
    expires = datetime.fromisoformat(made.pop("expires_at"))
    assert before + timedelta(days=30) <= expires <= clock.now() + timedelta(days=30)
    assert before <= datetime.fromisoformat(made.pop("created_at"))
    assert made == {
        "id": made["id"], "name": "CI of ümlaut", "owner": "team@example",
        "scopes": ["admin", "run"], "revoked_at": None, "last_used_at": None,
        "max_sessions": 5, "max_parallel_runs": 2, "max_runs_per_minute": 60,
    }  # fmt: skip


async def test_without_options_a_key_may_run_for_good_as_the_default_owner(keys):
    await created(keys)
    (key,) = await listed(keys)
    assert (key["owner"], key["scopes"], key["expires_at"]) == ("default", ["run"], None)
    assert [key[name] for name in key if name.startswith("max_")] == [None] * 3


async def test_the_list_for_people_says_what_holds(keys):
    await created(keys, "--owner", "alice", "--max-sessions", "5")
    await created(keys, "--expires", "1h")
    gone = await created(keys)
    await keys("revoke", gone.split("_")[1])
    _, out, _ = await keys("list")
    head, first, second, third = out.splitlines()
    assert head.split()[:2] == ["ID", "OWNER"]
    assert "alice" in first
    assert "max_sessions=5" in first
    assert "until 20" in second
    assert "revoked" in third


async def test_a_key_stays_revoked_since_when_it_was(keys):
    key = await created(keys)
    await keys("revoke", key.split("_")[1])
    (first,) = await listed(keys)
    status, _, err = await keys("revoke", key.split("_")[1])
    assert status == 0
    assert "no key is left" in err
    assert await listed(keys) == [first]
    assert first["revoked_at"]


async def test_keys_of_a_database_of_ones_own(kernelsvc, tmp_path):
    url = f"sqlite:///{tmp_path / 'own.db'}"
    for command in (("create", "x"), ("list",)):
        status, _, _ = await kernelsvc(
            "keys", *command, "--database-url", url, "--data-dir", tmp_path / "data"
        )
        assert status == 0
    assert (tmp_path / "own.db").exists()
    assert not (tmp_path / "data" / "kernelsvc.db").exists()


WRONG = [
    (("create", ""), "name"),
    (("create", "a\nb"), "name"),
    (("create", "x" * 101), "name"),
    (("create", "x", "--owner", "*"), "owner"),
    (("create", "x", "--owner", ""), "owner"),
    (("create", "x", "--owner", "a b"), "owner"),
    (("create", "x", "--expires", "soon"), "expires"),
    (("create", "x", "--expires", "0"), "expires"),
    (("create", "x", "--expires", "99999999d"), "expires"),
    (("create", "x", "--max-sessions", "0"), "max-sessions"),
    (("create", "x", "--max-sessions", "-1"), "max-sessions"),
    (("create", "x", "--max-parallel-runs", "1.5"), "max-parallel-runs"),
    (("create", "x", "--max-runs-per-minute", "9" * 11), "max-runs-per-minute"),
    (("create",), "name"),
    (("revoke",), "id"),
    (("revoke", "nobody"), "nobody"),
    (("list", "--config", "no/such.toml"), "no/such.toml"),
    (("list", "--database-url", "nonsense"), "database_url"),
    (("list", "--data-dir", "/proc/nothing"), "/proc/nothing"),
]


@pytest.mark.parametrize(("arguments", "named"), WRONG)
async def test_a_wrong_argument_is_2_is_named_and_makes_no_key(keys, arguments, named):
    status, out, err = await keys(*arguments)
    assert (status, out) == (2, "")
    assert named in err
    assert "Traceback" not in err
    assert await listed(keys) == []


# ---- with a service


async def test_keys_come_and_go_while_the_service_runs(keys, make_settings):
    first = await created(keys, "--owner", "alice")
    async with serving(make_settings()) as server:
        second = await created(keys, "--owner", "bob")
        async with clients(server, first, second) as (alice, bob):
            assert (await alice.create("a", persistent=False))["owner"] == "alice"
            assert (await bob.create("b", persistent=False))["owner"] == "bob"
            await keys("revoke", first.split("_")[1])

            async def is_out():
                return (await alice.http.get("/api/sessions")).status_code == 401

            await eventually(is_out)
            assert (await bob.http.get("/api/sessions")).status_code == 200
    assert [key["last_used_at"] is None for key in await listed(keys)] == [False, False]


async def test_run_takes_its_key_and_its_service_from_flags_or_environment(
    keys, kernelsvc, make_settings, monkeypatch
):
    key = await created(keys)
    async with serving(make_settings()) as server:
        url = ("--url", server.url)
        assert await kernelsvc("run", "6 * 7", *url, "--api-key", key) == (0, "42\n", "")
        for wrong in ((), ("--api-key", ""), ("--api-key", "wrong"), ("--api-key", "é\n")):
            status, out, err = await kernelsvc("run", "6 * 7", *url, *wrong)
            assert (status, out) == (2, "")
            assert "key" in err
            assert "Traceback" not in err
        monkeypatch.setenv("KERNELSVC_API_KEY", key)
        monkeypatch.setenv("KERNELSVC_URL", server.url)
        assert await kernelsvc("run", "6 * 7") == (0, "42\n", "")
        assert (await kernelsvc("run", "6 * 7", "--api-key", "wrong"))[0] == 2


async def test_a_client_with_a_key_works_and_one_without_is_told(keys, make_settings):
    key = await created(keys)
    async with serving(make_settings()) as server:

        def work(api_key):
            with Client(server.url, api_key=api_key) as client:
                return client.create_session("python", session_id="s", persistent=False).owner

        with pytest.raises(ServiceError) as refused:
            await asyncio.to_thread(work, None)
        assert (refused.value.status, refused.value.problem.code) == (401, "unauthorized")
        assert await asyncio.to_thread(work, key) == "default"
        async with AsyncClient(base_url=server.url, headers=bearer(key)) as http:
            assert (await http.get("/api/sessions")).json()["count"] == 1


@pytest.mark.parametrize("key", ["é", "a\nb", "a\0"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent(key):
    with pytest.raises(ValueError, match="API key"):
        Client("http://127.0.0.1:1", api_key=key)


def test_an_open_address_without_a_key_is_2_and_says_what_to_do(tmp_path):
    where = ["--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path / "data")]
    served = subprocess.run(
        [sys.executable, "-m", "kernelsvc", "serve", *where],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (served.returncode, served.stdout) == (2, "")
    assert "kernelsvc keys create" in served.stderr
    assert "Traceback" not in served.stderr

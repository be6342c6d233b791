"""A service to hold to the contract: that at `--url`, or one that is started for the tests.

The tests here know it by HTTP only, so that any other implementation can stand in its place. What
some of them need is asked for by a fixture; against a URL, those whose need is not given are left
out: a key (`--key`), a way back to this machine (`--callback-host`), leave to delete everything
(`--delete-all`).
"""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any, Final

import httpx
import pytest

from tests.conformance.client import Client, Session
from tests.support.process import ServiceProcess

OPTIONS: Final = {
    "key": "--key",
    "receiver": "--callback-host",
    "all_sessions_may_go": "--delete-all",
}
"""What a fixture needs of the command line, against a URL."""

OWN_KEY: Final = "the-key-of-the-tests"
MIRROR: Final = {"PIP_CERT", "PIP_INDEX_URL"}
"""The variables by which pip on this machine reaches its index, where it is not the usual one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--url", help="test the service at this URL, instead of starting one")
    group.addoption("--key", help="the API key that it asks for")
    group.addoption("--callback-host", help="the address at which it may send callbacks to here")
    group.addoption("--delete-all", action="store_true", help="delete all of the key's sessions")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What tests the OpenAPI document needs a service with settings of its own."""
    is_in_process = collection_path.name == "test_openapi.py"
    return True if is_in_process and config.getoption("--url", None) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--url", None):
        return
    missing = {name for name, option in OPTIONS.items() if not config.getoption(option)}
    out = [item for item in items if missing & set(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def _key(config: pytest.Config) -> str | None:
    return config.getoption("--key") if config.getoption("--url", None) else OWN_KEY


@pytest.fixture(scope="session")
def key(pytestconfig: pytest.Config) -> str:
    """The key that the service asks for."""
    return _key(pytestconfig) or ""


@pytest.fixture(scope="session")
def url(pytestconfig: pytest.Config) -> Iterator[str]:
    """Where the service is; kernels of one that is started here have half a second to end."""
    given = pytestconfig.getoption("--url", None)
    if given:
        yield given
        return
    with ServiceProcess(
        api_key=OWN_KEY,
        callback_networks="127.0.0.1/32",
        callback_first_pause=0.1,
        terminate_grace=0.5,
        setup_environment=json.dumps({name: os.environ[name] for name in MIRROR & {*os.environ}}),
    ) as process:
        yield process.url


@pytest.fixture(scope="session")
def client(url: str, pytestconfig: pytest.Config) -> Iterator[Client]:
    """A client of the service, with a key where it asks for one."""
    key = _key(pytestconfig)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        yield Client(http)


@pytest.fixture
def make_session(client: Client) -> Iterator[Callable[..., Session]]:
    """Make sessions, which are gone when the test ends."""
    made = []

    def make(**fields: Any) -> Session:
        made.append(client.create(**fields))
        return made[-1]

    yield make
    for session in made:
        session.delete()


@pytest.fixture(scope="module")
def session(client: Client) -> Iterator[Session]:
    """A Python session, awake, that the tests of a file share; none leaves a run behind."""
    shared = client.create()
    shared.answer("POST", "/wake")
    yield shared
    shared.delete()


@pytest.fixture(scope="session")
def all_sessions_may_go() -> None:
    """Leave to delete sessions that are not the test's own."""


@dataclass
class Receiver:
    """A server for callbacks at `url`; it answers `statuses` in turn, then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    got: "Queue[tuple[dict[str, str], bytes]]" = field(default_factory=Queue)
    """Of each request the headers, their names in lower case, and the body."""


@pytest.fixture
def receiver(pytestconfig: pytest.Config) -> Iterator[Receiver]:
    """A receiver of callbacks that the service can reach."""
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(received.statuses.pop(0) if received.statuses else 200)
            self.end_headers()
            received.got.put(({name.lower(): value for name, value in self.headers.items()}, body))

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    host = pytestconfig.getoption("--callback-host", None)
    with ThreadingHTTPServer(("0.0.0.0" if host else "127.0.0.1", 0), Handler) as server:
        received.url = f"http://{host or '127.0.0.1'}:{server.server_port}/done"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield received
        server.shutdown()
        thread.join()

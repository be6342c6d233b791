"""Fixtures that every test may use: a real service in this process, and a client for it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import settings as hypothesis_settings
from tornado.ioloop import IOLoop

from kernelsvc.app import Server, serving
from kernelsvc.settings import Settings, load_settings
from tests.support.api import Api
from tests.support.named import of_this_process
from tests.support.once import Zygotes, certificates_read_once, sandbox_tried_once

# The same examples each time; `--hypothesis-profile default` looks for new ones.
hypothesis_settings.register_profile("reproducible", derandomize=True, deadline=None)
hypothesis_settings.load_profile("reproducible")


@pytest.fixture(autouse=True, scope="session")
def log_to_logging() -> None:
    """What services in this process log is pytest's to capture; stdout is the tests'."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


@pytest.fixture(scope="session")
def zygotes() -> Iterator[Zygotes]:
    """The zygote that the services in this process share, and the rest of what they have once."""
    with certificates_read_once(), sandbox_tried_once(), Zygotes().in_force() as lending:
        lending.warm()
        yield lending


@pytest.fixture
def own_zygotes(zygotes: Zygotes) -> Iterator[None]:
    """Each service has a zygote of its own, as where it is alone."""
    zygotes.is_lending = False
    yield
    zygotes.is_lending = True


@pytest.fixture
def make_settings(tmp_path: Path, zygotes: Zygotes) -> Iterator[Callable[..., Settings]]:
    """Settings for a service of this test's own; sockets need a shorter path than pytest's."""
    runtime = Path(tempfile.mkdtemp(prefix="ks"))

    def make(**changes: Any) -> Settings:
        defaults = {
            "port": 0,
            "data_dir": tmp_path / "data",
            "runtime_dir": runtime,
            "interrupt_grace": 2.0,
            "terminate_grace": 1.0,
            "drain_timeout": 5.0,
            # Most tests have one session: a kernel that waits for another would be in vain.
            "pool_min": 0,
            "pool_max": 0,
            # A service in this process cannot be killed without it.
            "orphan_grace": 0,
        }
        return load_settings(**{**defaults, **changes})

    yield make
    assert list(runtime.glob("*/")) == [], "the service left runtime directories behind"
    shutil.rmtree(runtime)


@pytest.fixture
def serve(
    io_loop: IOLoop, make_settings: Callable[..., Settings], zygotes: Zygotes
) -> Iterator[Callable[..., Server]]:
    """Start services with changed settings; they stop when the test ends, and leave nothing."""
    before = {child.pid for child in of_this_process()}
    stack = AsyncExitStack()

    def start(**changes: Any) -> Server:
        server: Server = io_loop.run_sync(
            lambda: stack.enter_async_context(serving(make_settings(**changes)))
        )
        return server

    yield start
    io_loop.run_sync(stack.aclose)
    zygotes.settle()
    left = [child for child in of_this_process() if child.pid not in before and child.is_running()]
    assert left == [], "the service left processes behind"


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A service with the tests' default settings."""
    return serve()


@pytest.fixture
def api(io_loop: IOLoop, server: Server) -> Iterator[Api]:
    """A client of `server`."""
    client = httpx.AsyncClient(base_url=server.url, timeout=90)
    yield Api(client)
    io_loop.run_sync(client.aclose)

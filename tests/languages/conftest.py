"""One service for all tests of languages, with a session for each that is asked for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tornado.ioloop import IOLoop

from tests.support.api import Api
from tests.support.process import ServiceProcess

STOCK = "stock-ipykernel"
"""The kernelspec of an installed kernel that knows nothing of the service."""


class Languages(Api):
    """A client; sessions are called like their languages, and tests may replace their kernels."""

    async def run(self, code: str, session_id: str = "s", **fields: Any) -> dict[str, Any]:
        """Run code in the session of that language, which is made where it is not there yet."""
        body = {"language": session_id, "session_id": session_id}
        answer = await self.send("POST", "/api/sessions", body)
        assert answer.status in (201, 409), answer
        return await super().run(code, session_id, **fields)


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service. Its kernels have little time to end."""
    kernels = tmp_path_factory.mktemp("jupyter")
    spec = Path(kernels, "kernels", STOCK, "kernel.json")
    spec.parent.mkdir(parents=True)
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Stock", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(kernels))
        service = ServiceProcess(kernelspecs=STOCK, pool_min=0, pool_max=1, terminate_grace=0.3)
        with service:
            yield service


@pytest.fixture
def languages(io_loop: IOLoop, process: ServiceProcess) -> Iterator[Languages]:
    """A client of the service."""
    client = httpx.AsyncClient(base_url=process.url, timeout=60)
    yield Languages(client)
    io_loop.run_sync(client.aclose)

"""What a run over HTTP costs beside the same execute request over a bare client.

`python -m tests.benchmarks.run_latency` prints a table; README.md beside this file says how to
read it. All three are measured in turn, request by request, so that a slow moment of the machine
falls on each alike. Every kernel is a process of its own.
"""

import argparse
import asyncio
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import start_new_async_kernel

from kernelsvc.kernels.languages import kernelspec_of
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.runtime import RuntimeDirectory
from kernelsvc.models.limits import Limits
from kernelsvc.sandbox.isolation import Isolation
from tests.support.process import ServiceProcess

Measure = Callable[[], Awaitable[None]]


async def bare_execute(client: AsyncKernelClient, code: str) -> None:
    """One execute request: until the reply and the idle of this request are here."""
    request_id = client.execute(code)
    idle = False
    while not idle:
        message = await client.get_iopub_msg(timeout=30)
        idle = (
            message["parent_header"].get("msg_id") == request_id
            and message["msg_type"] == "status"
            and message["content"]["execution_state"] == "idle"
        )
    while (await client.get_shell_msg(timeout=30))["parent_header"].get("msg_id") != request_id:
        pass


class HttpRunner:
    """Posts runs over one kept-alive connection, with as little of a client as there can be."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    async def open(self) -> None:
        """Connect and make a session."""
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        await self.post("/api/sessions", {"language": "python", "session_id": "benchmark"})

    async def post(self, path: str, body: object) -> bytes:
        """Send a request and read its answer."""
        payload = json.dumps(body).encode()
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n".encode()
            + payload
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        answer = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(answer.decode())
        return answer

    async def run(self, code: str) -> None:
        """Run code; raises unless it succeeded."""
        answer = await self.post("/api/sessions/benchmark/run", {"code": code})
        if json.loads(answer)["exit_code"] != 0:
            raise RuntimeError(answer.decode())


async def measure(rounds: int, code: str) -> dict[str, list[float]]:
    """Seconds of each request, by what was measured."""
    async with AsyncExitStack() as stack:
        stock_manager, stock = await start_new_async_kernel(kernel_name="python3")
        stack.push_async_callback(stock_manager.shutdown_kernel, now=True)
        stack.callback(stock.stop_channels)

        runtime = RuntimeDirectory(None)
        runtime.open()
        stack.callback(runtime.close)
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        launcher = Launcher(runtime, Isolation(None), patience=60)
        stack.callback(launcher.close)
        seat = await launcher.seat(kernelspec_of("python"), workspace, Limits())
        stack.push_async_callback(seat.close)
        kernel = await launcher.start(seat, kernelspec_of("python"), lambda request_id, event: None)
        stack.push_async_callback(kernel.close)
        ours = AsyncKernelClient()
        ours.load_connection_file(str(next(seat.place.runtime.glob("*.json"))))
        ours.start_channels(stdin=False, hb=False)
        stack.callback(ours.stop_channels)
        await ours.wait_for_ready(timeout=60)

        service = stack.enter_context(ServiceProcess())
        http = HttpRunner(service.host, service.port)
        await http.open()

        subjects: dict[str, Measure] = {
            "bare client, stock ipykernel (tcp)": lambda: bare_execute(stock, code),
            "bare client, kernelsvc's kernel (ipc)": lambda: bare_execute(ours, code),
            "kernelsvc over HTTP": lambda: http.run(code),
        }
        seconds: dict[str, list[float]] = {name: [] for name in subjects}
        for number in range(-20, rounds):
            for name, subject in subjects.items():
                began = time.perf_counter()
                await subject()
                if number >= 0:
                    seconds[name].append(time.perf_counter() - began)
        return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--code", default="pass")
    arguments = parser.parse_args()
    seconds = asyncio.run(measure(arguments.rounds, arguments.code))
    print(f"{platform.platform()}, Python {platform.python_version()}, {arguments.rounds} rounds")
    packages = ("jupyter_client", "ipykernel", "pyzmq", "tornado")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    http = statistics.median(seconds["kernelsvc over HTTP"])
    print(f"{'':40} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'HTTP / this':>12}")
    for name, values in seconds.items():
        cuts = statistics.quantiles(values, n=100)
        ratio = http / statistics.median(values)
        print(
            f"{name:40} {cuts[49] * 1e3:8.2f} {cuts[94] * 1e3:8.2f} {cuts[98] * 1e3:8.2f}"
            f" {ratio:12.2f}"
        )


if __name__ == "__main__":
    main()

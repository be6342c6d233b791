"""What the service counts of itself, in the form that Prometheus reads."""

from collections.abc import Callable
from functools import cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_START_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RUN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 3600)


class Metrics:
    """The counts of one service, from its start on."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._starts = Histogram(
            "kernelsvc_kernel_start_seconds",
            "Until a session had the kernel it needed: claimed from the pool, forked on the host "
            "of the one before, restored from its snapshot, copied from another session's kernel, "
            "or started with a sandbox of its own",
            ["how"],
            buckets=_START_SECONDS,
            registry=self._registry,
        )
        self._failures = Counter(
            "kernelsvc_kernel_start_failures",
            "Attempts to start a kernel that failed",
            registry=self._registry,
        )
        runs = Histogram(
            "kernelsvc_run_seconds",
            "Runs that have ended, by their status",
            ["status"],
            buckets=_RUN_SECONDS,
            registry=self._registry,
        )
        # To look a label up takes longer than to count.
        self._runs_of = cache(runs.labels)

    def kernel_started(self, how: str, seconds: float) -> None:
        """A session has a kernel: `claimed`, `forked`, `restored`, `copied` or `started`."""
        self._starts.labels(how).observe(seconds)

    def kernel_start_failed(self) -> None:
        """An attempt to start one has failed."""
        self._failures.inc()

    def run_finished(self, status: str, seconds: float) -> None:
        """A run has ended."""
        self._runs_of(status).observe(seconds)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Tell a number that is as it is when somebody asks; `value` must not block."""
        Gauge(f"kernelsvc_{name}", about, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """All of it, to be served as CONTENT_TYPE."""
        return generate_latest(self._registry)

"""Threads print for the run that started them, not for the run that happens to be executing.

ipykernel keeps the request that output belongs to in context variables. Tasks inherit them; on
Python before 3.14 threads do not, and fall back to the latest request. So a thread is given the
label of whoever starts it, and a pool's worker, for the length of a call, that of whoever submits.
"""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any, Protocol


class Labeller(Protocol):
    """What knows the current request and can make a thread work for it."""

    def label(self) -> Any:
        """The request that the calling thread works for."""

    def set_label(self, label: Any) -> Callable[[], None]:
        """Make the calling thread work for `label`; returns what undoes it."""


def follow_threads(labeller: Labeller) -> None:
    """From now on threads and pool calls of this process carry their starter's label."""
    start = threading.Thread.start
    submit = concurrent.futures.ThreadPoolExecutor.submit

    def labelled_start(thread: threading.Thread) -> None:
        label = labeller.label()
        run = thread.run

        def labelled_run() -> None:
            del thread.run
            labeller.set_label(label)
            run()

        thread.run = labelled_run  # type: ignore[method-assign]
        start(thread)

    def labelled_submit(
        pool: concurrent.futures.ThreadPoolExecutor,
        call: Callable[..., Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> concurrent.futures.Future[Any]:
        label = labeller.label()

        def labelled_call() -> Any:
            reset = labeller.set_label(label)
            try:
                return call(*args, **kwargs)
            finally:
                reset()

        return submit(pool, labelled_call)

    threading.Thread.start = labelled_start  # type: ignore[method-assign, assignment]
    concurrent.futures.ThreadPoolExecutor.submit = labelled_submit  # type: ignore[method-assign, assignment]

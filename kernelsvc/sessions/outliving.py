"""How a session's kernel comes to outlive the service."""

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from kernelsvc.kernels.inheritance import keep
from kernelsvc.kernels.kernel import Kernel
from kernelsvc.kernels.launch import Launcher
from kernelsvc.kernels.seat import Seat

log = structlog.get_logger()


class Outliving:
    """For one session's kernels, while it is `on`. What cannot be kept ends with the service."""

    def __init__(self, session_id: str, kernelspec: str, launcher: Launcher) -> None:
        self._session_id = session_id
        self._kernelspec = kernelspec
        self._launcher = launcher
        self.on = launcher.can_prepare and launcher.keeping.is_on

    async def keep(
        self,
        seat: Seat | None,
        kernel: Kernel | None,
        more: Callable[[], Mapping[str, Any]],
        run: bytes | None,
    ) -> None:
        """See to it that the kernel outlives the service; `more` and `run` are for the next one."""
        if not self.on or seat is None or kernel is None:
            return
        before = seat.lifeline
        if before is not None and before.about is kernel:
            return
        told = more()
        try:
            seat.lifeline = await keep(
                self._launcher, self._session_id, self._kernelspec, seat, kernel, told, run
            )
        except OSError as error:
            log.warning("kernel_not_kept", session_id=self._session_id, reason=str(error))
        else:
            if before is not None:
                before.replaced()

    def note(self, seat: Seat | None, line: bytes) -> None:
        """A run is about to begin, of which the next service would have to know this."""
        if seat is not None and seat.lifeline is not None:
            try:
                seat.lifeline.note_run(line)
            except OSError as error:
                log.warning("run_not_noted", session_id=self._session_id, reason=str(error))

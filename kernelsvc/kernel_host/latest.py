"""Which of the service's runs a kernel works on, and how the latest one has ended.

A service that finds a kernel of an earlier one asks for it, over the control channel: of what was
said while nobody listened, it has heard nothing.
"""

from collections.abc import Mapping
from typing import Any

LATEST_REQUEST = "latest_request"


class LatestRun:
    """Told by the thread that runs code, asked by any."""

    def __init__(self) -> None:
        self._going: str | None = None
        self._ended: tuple[str, dict[str, Any]] | None = None

    def begin(self, request: Mapping[str, Any]) -> None:
        """It begins to work on this execute request."""
        self._going = request["header"]["msg_id"]

    def end(self, request: Mapping[str, Any], how: dict[str, Any]) -> None:
        """The request has ended, which is about to be said."""
        self._ended = request["header"]["msg_id"], how
        self._going = None

    def told(self) -> dict[str, Any]:
        """The content of the answer."""
        # Looked at in the order that is safe where a run ends in between.
        going, ended = self._going, self._ended
        request, how = ended or (None, {})
        return {"status": "ok", "going": going, "ended": request, "how": how}

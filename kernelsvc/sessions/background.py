"""What the threads and tasks of finished runs print: kept with the run that started them."""

from collections import OrderedDict

from kernelsvc.models.event import Display, Event, Raised, Result, Text
from kernelsvc.store.runs import RunStore

_RUNS = 100


class BackgroundOutput:
    """Background output of one session's latest runs; written to the store by `save`."""

    def __init__(self, runs: RunStore, max_bytes: int) -> None:
        self._runs = runs
        self._max_bytes = max_bytes
        self._run_ids: OrderedDict[str, str] = OrderedDict()
        self._texts: dict[str, str] = {}
        self._unsaved: set[str] = set()

    def follow(self, request_id: str, run_id: str) -> None:
        """From now on what comes for this execute request belongs to that run."""
        self._run_ids[request_id] = run_id
        while len(self._run_ids) > _RUNS:
            _, forgotten = self._run_ids.popitem(last=False)
            self._texts.pop(forgotten, None)
            self._unsaved.discard(forgotten)

    def add(self, request_id: str, event: Event) -> None:
        """Keep an event that came too late for its run's answer."""
        run_id = self._run_ids.get(request_id)
        text = _as_text(event)
        if run_id is None or not text:
            return
        # The newest is what a reader is after; the beginning goes when there is too much.
        self._texts[run_id] = (self._texts.get(run_id, "") + text)[-self._max_bytes :]
        self._unsaved.add(run_id)

    def text(self, run_id: str) -> str:
        """What this run's threads and tasks have printed so far."""
        return self._texts.get(run_id, "")

    async def save(self) -> None:
        """Write what is new to the runs' history."""
        while self._unsaved:
            run_id = self._unsaved.pop()
            await self._runs.set_background(run_id, self._texts[run_id])


def _as_text(event: Event) -> str:
    match event:
        case Text(text=text):
            return text
        case Display(data=data) | Result(data=data):
            return f"{data.get('text/plain', '')}\n"
        case Raised(traceback=traceback):
            return "\n".join(traceback) + "\n"
        case _:
            return ""

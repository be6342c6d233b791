"""A run's outputs as a notebook would show them, within a bound on memory.

The first half of the bound is for what comes first (the head), the second half for what comes last
(the tail); what falls out between is counted. So a flood costs no more than the bound, and both the
beginning and the end, where the error is, can be read.
"""

import json
from collections import deque
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any, Literal

from kernelsvc.models.event import (
    ClearOutput,
    Display,
    Event,
    Raised,
    Result,
    Text,
    UpdateDisplay,
)
from kernelsvc.models.output import (
    DisplayOutput,
    ErrorOutput,
    MimeBundle,
    Output,
    ResultOutput,
    StreamOutput,
)
from kernelsvc.outputs.terminal import TerminalText, utf8_size

# What an output costs beside its text; so many small ones fill the bound, too.
_ITEM_BYTES = 64


@dataclass(slots=True, eq=False)
class _Stream:
    name: str
    shown: TerminalText = field(default_factory=TerminalText)

    @property
    def size(self) -> int:
        return self.shown.size


@dataclass(slots=True, eq=False)
class _Rich:
    event: Display | Result | Raised
    size: int
    place: Literal["head", "tail"] = "head"


@dataclass(frozen=True)
class Collected:
    """The outputs of a run, `size` bytes of them; `cut_bytes` more were not kept."""

    outputs: list[Output]
    stdout: str
    stderr: str
    text: str | None
    error: Raised | None
    cut_bytes: int
    size: int = 0


class OutputCollector:
    """Takes a run's events in order; holds about `max_bytes` of them at most."""

    def __init__(self, max_bytes: int) -> None:
        self._head_room = max_bytes // 2
        self._tail_room = max_bytes - self._head_room
        self._most_items = max(16, self._head_room // _ITEM_BYTES)
        self._head: list[_Stream | _Rich] = []
        self._tail: deque[_Stream | _Rich] = deque()
        self._head_size = 0
        self._tail_size = 0
        self._head_full = False
        self._cut = 0
        self._clear_due = False
        self._error: Raised | None = None
        self._displays: dict[str, list[_Rich]] = {}

    def add(self, event: Event) -> None:
        """Apply one event."""
        match event:
            case ClearOutput(wait=True):
                self._clear_due = True
            case ClearOutput():
                self._clear()
            case UpdateDisplay():
                self._update(event)
            case Text(name=name, text=text):
                self._clear_if_due()
                self._write(name, text)
            case Display() | Result() | Raised():
                self._clear_if_due()
                self._show(event)
            case _:
                return

    def _clear_if_due(self) -> None:
        if self._clear_due:
            self._clear()

    def _clear(self) -> None:
        self._head.clear()
        self._tail.clear()
        self._head_size = self._tail_size = self._cut = 0
        self._head_full = self._clear_due = False
        self._displays.clear()

    def _write(self, name: str, text: str) -> None:
        while text and not self._head_full:
            # A piece that would leave the head is split: its beginning still belongs there. What
            # only redraws a line adds nothing, and there is room for more.
            fits, text = _split(text, self._head_room - self._head_size)
            self._head_size += self._write_to(self._head, name, fits)
            self._head_full = not fits or self._is_full(self._head, self._head_size)
        if text:
            self._tail_size += self._write_to(self._tail, name, text)
            self._trim()

    @staticmethod
    def _write_to(
        items: "list[_Stream | _Rich] | deque[_Stream | _Rich]", name: str, text: str
    ) -> int:
        last = items[-1] if items else None
        if not isinstance(last, _Stream) or last.name != name:
            last = _Stream(name)
            items.append(last)
        before = last.size
        last.shown.write(text)
        return last.size - before

    def _is_full(self, items: Sized, size: int) -> bool:
        return size >= self._head_room or len(items) >= self._most_items

    def _show(self, event: Display | Result | Raised) -> None:
        if isinstance(event, Raised):
            event = self._error = self._clipped(event)
        item = _Rich(event, _size(event))
        if not isinstance(event, Raised) and event.display_id is not None:
            self._displays.setdefault(event.display_id, []).append(item)
        if not self._head_full and self._head_size + item.size <= self._head_room:
            self._head.append(item)
            self._head_size += item.size
            self._head_full = self._is_full(self._head, self._head_size)
        else:
            self._head_full = True
            item.place = "tail"
            self._tail.append(item)
            self._tail_size += item.size
            self._trim()

    def _update(self, event: UpdateDisplay) -> None:
        for item in self._displays.get(event.display_id, []):
            shown = item.event
            assert not isinstance(shown, Raised)
            item.event = type(shown)(
                **{**_fields(shown), "data": event.data, "metadata": event.metadata}
            )
            before, item.size = item.size, _size(item.event)
            if item.place == "tail":
                self._tail_size += item.size - before
            elif self._head_size - before + item.size <= self._head_room:
                self._head_size += item.size - before
            else:
                self._head.remove(item)
                self._head_size -= before
                self._cut += item.size
                self._forget(item)
        self._trim()

    def _forget(self, item: "_Rich") -> None:
        """The item is not kept any more: updates no longer reach it."""
        display_id = None if isinstance(item.event, Raised) else item.event.display_id
        if display_id is not None:
            items = self._displays[display_id]
            items.remove(item)
            if not items:
                del self._displays[display_id]

    def _clipped(self, error: Raised) -> Raised:
        """The error, its text cut to what the tail can hold: what failed is always told."""
        room = self._tail_room // 2
        if _size(error) <= room * 2:
            return error
        traceback, _ = _split("\n".join(error.traceback), room)
        evalue, _ = _split(error.evalue, room)
        clipped = Raised(error.ename, evalue, (traceback,))
        self._cut += _size(error) - _size(clipped)
        return clipped

    def _trim(self) -> None:
        """Let the oldest of the tail go; with some slack, so that not each event pays for it."""
        slack = self._tail_room // 4
        if self._tail_size <= self._tail_room + slack and len(self._tail) <= self._most_items:
            return
        self._trim_to(self._tail_room)

    def _trim_to(self, room: int) -> None:
        while self._tail_size > room or len(self._tail) > self._most_items:
            first = self._tail[0]
            excess = self._tail_size - room
            if isinstance(first, _Stream) and first.size > excess > 0:
                cut = first.shown.cut_front(excess)
            else:
                cut = first.size
                self._tail.popleft()
                if isinstance(first, _Rich):
                    self._forget(first)
            self._tail_size -= cut
            self._cut += cut

    def collected(self) -> Collected:
        """What is there now."""
        self._trim_to(self._tail_room)
        items = [*self._head, *self._tail]
        if self._cut:
            gap = _Stream("stderr")
            gap.shown.write(f"\n... {self._cut} bytes of output cut here ...\n")
            items.insert(len(self._head), gap)
        outputs = [_output(item) for item in items if item.size]
        streams = {"stdout": "", "stderr": ""}
        text: str | None = None
        for output in outputs:
            match output:
                case StreamOutput(name=name, text=said):
                    streams[name] += said
                case ResultOutput(data=data):
                    text = data.get("text/plain", text)
                case ErrorOutput(traceback=traceback):
                    streams["stderr"] += "\n".join(traceback) + "\n"
                case _:
                    continue
        size = self._head_size + self._tail_size
        return Collected(
            outputs, streams["stdout"], streams["stderr"], text, self._error, self._cut, size
        )


def _fields(event: Display | Result) -> dict[str, Any]:
    return {name: getattr(event, name) for name in type(event).__slots__}


def _output(item: "_Stream | _Rich") -> Output:
    if isinstance(item, _Stream):
        return StreamOutput(
            name="stdout" if item.name == "stdout" else "stderr", text=item.shown.text()
        )
    match item.event:
        case Display(data=data, metadata=metadata):
            return DisplayOutput(data=data, metadata=metadata)
        case Result(data=data, metadata=metadata, execution_count=count):
            return ResultOutput(data=data, metadata=metadata, execution_count=count)
        case Raised(ename=ename, evalue=evalue, traceback=traceback):
            return ErrorOutput(ename=ename, evalue=evalue, traceback=list(traceback))


def _size(event: Display | Result | Raised) -> int:
    if isinstance(event, Raised):
        return sum(map(utf8_size, event.traceback)) + utf8_size(event.evalue)
    return _bundle_size(event.data) + (len(json.dumps(event.metadata)) if event.metadata else 0)


def _bundle_size(data: MimeBundle) -> int:
    return sum(
        utf8_size(value) if isinstance(value, str) else len(json.dumps(value))
        for value in data.values()
    )


def _split(text: str, size: int) -> tuple[str, str]:
    """The text up to `size` bytes of UTF-8, whole characters only, and the rest."""
    if utf8_size(text) <= size:
        return text, ""
    if text.isascii():
        return text[:size], text[size:]
    fits = text.encode()[: max(0, size)].decode(errors="ignore")
    return fits, text[len(fits) :]

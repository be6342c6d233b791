"""What a setup's programs print: read from files that they could write anything to."""

import os
from pathlib import Path

from kernelsvc.files.beneath import NotRegular, directory_by_path, open_regular

MOST_BYTES = 64 * 1024
"""What is kept of all steps together."""
_HEAD_SHARE = 4


def read_log(directory: Path, name: str, owner: int, most: int = MOST_BYTES) -> str:
    """The text of a log below a directory of the service's; blocks.

    Of one with more than `most` bytes the beginning and the end, and how much is missing. Where
    there is no such file (any more), nothing.
    """
    try:
        with directory_by_path(os.fsencode(directory)) as opened:
            descriptor = open_regular(opened, os.fsencode(name), owner)
        try:
            size = os.fstat(descriptor).st_size
            if size <= most:
                return os.pread(descriptor, most, 0).decode(errors="replace")
            head = most // _HEAD_SHARE
            end = most - head
            parts = (os.pread(descriptor, head, 0), os.pread(descriptor, end, size - end))
        finally:
            os.close(descriptor)
    except (OSError, NotRegular):
        return ""
    head_text, tail_text = (part.decode(errors="replace") for part in parts)
    return _joined(head_text, tail_text, size - most)


def cut(text: str, most: int) -> str:
    """The same of a text, by its characters."""
    if len(text) <= most:
        return text
    head = most // _HEAD_SHARE
    return _joined(text[:head], text[len(text) - most + head :], len(text) - most)


def _joined(head: str, tail: str, missing: int) -> str:
    return f"{head}\n[... {missing} more ...]\n{tail}"


def reason_in(log: str) -> str:
    """The line that says best why a program failed; empty where it has printed none."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.lower().startswith("error:")]
    return cut((said or lines or [""])[-1].removeprefix("ERROR: ").removeprefix("error: "), 500)


def unreachable(log: str) -> str | None:
    """Why pip could not reach its index; None where it could."""
    tries = [line for line in log.splitlines() if "Retrying (Retry(total=0" in line]
    return cut(tries[-1].partition("connection broken by ")[2], 500) if tries else None

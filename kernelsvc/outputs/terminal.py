"""Text of a stream as a notebook shows it: carriage returns and backspaces applied."""

import re

# Shorter pieces of text become one: each costs some fifty bytes beside its text.
_PIECE = 1 << 12
_CONTROL = re.compile(r"([\r\b])")


class TerminalText:
    r"""Text that grows; a progress bar that redraws its line stays one line.

    A carriage return moves to the start of the line, where what follows overwrites what is there; a
    backspace moves one character back. `\r\n` is kept as it is, and so is everything before the
    current line.
    """

    __slots__ = ("_column", "_line", "_lines", "_returned", "size")

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._line: list[str] = []
        # Where the next text goes in the current line; None for its end.
        self._column: int | None = None
        self._returned = False
        self.size = 0

    def write(self, text: str) -> None:
        """Add text; `size` is then the number of UTF-8 bytes of all that is shown."""
        if not self._returned and self._adds(text):
            lines, newline, text = text.rpartition("\n")
            if newline:
                self._end_line(lines)
            self._draw(text)
            return
        lines_drawn = text.split("\n")
        for line in lines_drawn[:-1]:
            self._draw(line)
            # Shown, it changes nothing; kept, a file with such line ends comes out as written.
            self._end_line("\r" if self._returned else "")
            self._column, self._returned = None, False
        self._draw(lines_drawn[-1])

    def _adds(self, text: str) -> bool:
        """Whether the text goes behind what is there, as it is."""
        return self._column is None and "\r" not in text and "\b" not in text

    def _end_line(self, text: str) -> None:
        self._line.append(text + "\n")
        for piece in self._line:
            _append(self._lines, piece)
        self._line.clear()
        self.size += utf8_size(text) + 1

    def _draw(self, text: str) -> None:
        if not text:
            return
        self._returned = text.endswith("\r")
        if self._adds(text):
            _append(self._line, text)
            self.size += utf8_size(text)
            return
        line = "".join(self._line)
        before = utf8_size(line)
        column = len(line) if self._column is None else self._column
        for piece in _CONTROL.split(text):
            if piece == "\r":
                column = 0
            elif piece == "\b":
                column = max(0, column - 1)
            elif piece:
                end = column + len(piece)
                line = line[:column] + piece + line[end:]
                column = end
        self.size += utf8_size(line) - before
        self._column = column if column < len(line) else None
        self._line = [line]

    def text(self) -> str:
        """Everything, as shown now."""
        return "".join(self._lines) + "".join(self._line)

    def cut_front(self, count: int) -> int:
        """Drop `count` bytes from the front, a torn character too; returns how many that were."""
        dropped = _drop(self._lines, count)
        if dropped < count and self._line:
            if self._column is not None:
                self._line = ["".join(self._line)]
                gone = len(self._line[0]) - len(_behind(self._line[0], count - dropped))
                self._column = max(0, self._column - gone)
            dropped += _drop(self._line, count - dropped)
        self.size -= dropped
        return dropped


def _append(pieces: list[str], text: str) -> None:
    if pieces and len(pieces[-1]) < _PIECE:
        pieces[-1] += text
    else:
        pieces.append(text)


def _drop(pieces: list[str], count: int) -> int:
    """Take `count` bytes from the front of the pieces; returns how many that were."""
    whole = dropped = 0
    for piece in pieces:
        if dropped >= count:
            break
        rest = _behind(piece, count - dropped)
        dropped += utf8_size(piece) - utf8_size(rest)
        if rest:
            pieces[whole] = rest
            break
        whole += 1
    del pieces[:whole]
    return dropped


def _behind(text: str, count: int) -> str:
    """What comes after the first `count` bytes, whole characters only."""
    if text.isascii():
        return text[count:]
    rest = text.encode()[count:]
    torn = next((at for at, byte in enumerate(rest) if byte & 0xC0 != 0x80), len(rest))
    return rest[torn:].decode()


def utf8_size(text: str) -> int:
    """The bytes of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())

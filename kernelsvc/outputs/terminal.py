"""Text of a stream as a notebook shows it: carriage returns and backspaces applied."""

import re

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
        self._line = ""
        self._column = 0
        self._returned = False
        self.size = 0

    def write(self, text: str) -> None:
        """Add text; `size` is then the number of UTF-8 bytes of all that is shown."""
        lines = text.split("\n")
        for line in lines[:-1]:
            self._draw(line)
            if self._returned:
                # Shown, it changes nothing; kept, a file with such line ends comes out as written.
                self._line += "\r"
                self.size += 1
            self._lines.append(self._line + "\n")
            self.size += 1
            self._line, self._column, self._returned = "", 0, False
        self._draw(lines[-1])

    def _draw(self, text: str) -> None:
        if not text:
            return
        self._returned = text.endswith("\r")
        if self._column == len(self._line) and "\r" not in text and "\b" not in text:
            self._line += text
            self._column += len(text)
            self.size += utf8_size(text)
            return
        before = utf8_size(self._line)
        for piece in _CONTROL.split(text):
            if piece == "\r":
                self._column = 0
            elif piece == "\b":
                self._column = max(0, self._column - 1)
            elif piece:
                end = self._column + len(piece)
                self._line = self._line[: self._column] + piece + self._line[end:]
                self._column = end
        self.size += utf8_size(self._line) - before

    def text(self) -> str:
        """Everything, as shown now."""
        return "".join(self._lines) + self._line

    def cut_front(self, count: int) -> int:
        """Drop `count` bytes from the front, a torn character too; returns how many that were."""
        whole = self.text().encode()
        rest = whole[count:]
        while rest and rest[0] & 0xC0 == 0x80:
            rest = rest[1:]
        head, newline, line = rest.decode().rpartition("\n")
        self._lines = [head + newline] if newline else []
        self._column = max(0, self._column - max(0, len(self._line) - len(line)))
        self._line = line
        self.size = len(rest)
        return len(whole) - len(rest)


def utf8_size(text: str) -> int:
    """The bytes of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())

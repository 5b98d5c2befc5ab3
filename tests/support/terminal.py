"""A pseudo-terminal for tests, with the screen that its user would see."""

import asyncio
import os
import re


class Screen:
    """Screen of a terminal: shows text and obeys the escape codes that the example client uses."""

    def __init__(self, columns: int, rows: int) -> None:
        self._cells = [[" "] * columns for _ in range(rows)]
        self._row = self._column = 0
        self._saved = 0, 0
        self._rest = ""  # the begin of an escape code whose end has not come yet

    def rows(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]

    def feed(self, text: str) -> None:
        text = self._rest + text
        self._rest = re.findall(r"(?:\x1b\[?)?$", text)[0]
        for token in re.findall(r"\x1b\[.|\x1b.|[\s\S]", text[: len(text) - len(self._rest)]):
            self._take(token)

    def _take(self, token: str) -> None:
        cells, columns = self._cells, len(self._cells[0])
        if token == "\n":
            self._row += 1
            if self._row == len(cells):
                self._row -= 1
                cells.append([" "] * columns)
                del cells[0]
        elif token == "\r":
            self._column = 0
        elif token == "\x1b7":  # save the cursor
            self._saved = self._row, self._column
        elif token == "\x1b8":  # restore it
            self._row, self._column = self._saved
        elif token == "\x1b[A":  # up
            self._row = max(self._row - 1, 0)
        elif token == "\x1b[B":  # down
            self._row = min(self._row + 1, len(cells) - 1)
        elif token == "\x1b[L":  # insert a row
            cells.insert(self._row, [" "] * columns)
            del cells[-1]
        elif token == "\x1b[K":  # erase to the end of the row
            cells[self._row][self._column :] = [" "] * (columns - self._column)
        else:
            assert token.isprintable(), f"the screen does not know {token!r}"
            if self._column == columns:
                self._column = 0
                self._take("\n")
            cells[self._row][self._column] = token
            self._column += 1


class Terminal:
    """Pseudo-terminal: ``fd`` for a program, ``type`` and ``shows`` for its user. Open it in a running loop."""

    def __init__(self, columns: int, rows: int) -> None:
        self.environ = {**os.environ, "COLUMNS": str(columns), "LINES": str(rows)}
        self._screen = Screen(columns, rows)
        self._news = asyncio.Event()
        self._user, self.fd = os.openpty()
        asyncio.get_running_loop().add_reader(self._user, self._read)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *failure: object) -> None:
        asyncio.get_running_loop().remove_reader(self._user)
        os.close(self._user)
        os.close(self.fd)

    def type(self, text: str) -> None:
        os.write(self._user, text.encode())

    async def shows(self, *rows: str) -> None:
        """Wait until the screen shows these rows, empty ones left out, and no others."""
        try:
            while (shown := [row for row in self._screen.rows() if row]) != list(rows):
                self._news.clear()
                await self._news.wait()
        except asyncio.CancelledError:  # the test took too long
            raise AssertionError(f"{rows} were expected on the screen, not {shown}") from None

    def _read(self) -> None:
        self._screen.feed(os.read(self._user, 4096).decode())
        self._news.set()

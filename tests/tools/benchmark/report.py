"""The output: a progress bar on standard error, tables on standard output."""

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from tests.tools.benchmark.fairness import Fairness
from tests.tools.benchmark.load import Result

WIDTH = 30  # of the bar, in characters


class Progress:
    """Progress bar on one line of a terminal; prints nothing elsewhere."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._started = time.monotonic()
        self._shown = sys.stderr.isatty()

    def step(self, what: str) -> None:
        """Show that ``what`` begins, and with it that everything before is done."""
        filled = WIDTH * self._done // self._steps
        bar = "#" * filled + "." * (WIDTH - filled)
        self._print(f"[{bar}] {self._done}/{self._steps} {time.monotonic() - self._started:4.0f} s  {what}")
        self._done += 1

    def clear(self) -> None:
        """Make room for a line of the report."""
        self._print("")

    def _print(self, text: str) -> None:
        if self._shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def number(value: float, digits: int = 0) -> str:
    """``value`` with so many digits after the point, or a dash for what was not measured."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def microseconds(value: float) -> str:
    return number(value, 3 if value < 10 else 1)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be: the first to the left, the others to the right."""
    lines = [head, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths)))
        for line in lines
    )


def comparison(results: Mapping[str, Result]) -> str:
    """One row for each server; the first column is its CPU time per delivery as a multiple of the first server's."""
    first = next(iter(results.values())).cpu_us
    head = ("", "ratio", "CPU us/delivery", "deliveries/s", "p50 ms", "p99 ms", "KiB/member", "joins/s", "CPU us/join")
    rows = [
        (
            name,
            number(result.cpu_us / first if first else math.nan, 2),
            microseconds(result.cpu_us),
            number(result.rate),
            number(result.p50_ms, 2),
            number(result.p99_ms, 2),
            number(result.kib, 1),
            number(result.joins),
            number(result.join_us),
        )
        for name, result in results.items()
    ]
    closed = [f"{name} closed {result.closed:g} connections." for name, result in results.items() if result.closed]
    return "\n".join([table(head, rows), *closed])


def growth(sizes: Sequence[int], results: Mapping[str, Sequence[Result]]) -> str:
    """One row for each server, one column for each size: the server's CPU time per delivery, in microseconds."""
    rows = [(name, *(microseconds(result.cpu_us) for result in curve)) for name, curve in results.items()]
    return table(("", *(f"{size:,}" for size in sizes)), rows)


def fairness(results: Mapping[str, Fairness]) -> str:
    """One row for each server; the first column is the pair's busy p99 as a multiple of its idle p99."""
    head = (
        "",
        "p99 ratio",
        "idle p50 ms",
        "idle p99 ms",
        "busy p50 ms",
        "busy p99 ms",
        "deliveries/s",
        "server's core",
    )
    rows = [
        (
            name,
            number(result.busy_p99_ms / result.idle_p99_ms, 1),
            number(result.idle_p50_ms, 2),
            number(result.idle_p99_ms, 2),
            number(result.busy_p50_ms, 2),
            number(result.busy_p99_ms, 2),
            number(result.crowd_rate),
            number(result.server_share * 100) + " %",
        )
        for name, result in results.items()
    ]
    return table(head, rows)

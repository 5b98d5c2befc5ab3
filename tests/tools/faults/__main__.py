"""``python -m tests.tools.faults``: every fault there is, one after the other, and a table of what was lost: nothing.

Each has a server of its own, and two witnesses who chat in another topic all the while: they must see no loss, no
duplicate and no other order, and the process must end with the tasks and descriptors it began with.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from typing import Optional

from tests.tools.benchmark.report import Progress, number, table
from tests.tools.faults.catalogue import FAULTS
from tests.tools.faults.scene import Outcome

HEAD = ("fault", "times", "heard", "lost", "p99", "worst", "MiB", "peak", "after", "s")


def cells(outcome: Outcome, seconds: float) -> "list[str]":
    return [
        outcome.fault,
        number(outcome.times),
        number(outcome.heard),
        number(outcome.lost),
        *(number(millis, 1) for millis in outcome.millis),
        *(number(mib) for mib in outcome.mib),
        number(seconds),
    ]


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the small form of each, as in the tests")
    parser.add_argument("--only", action="append", choices=FAULTS, metavar="NAME", help=f"of {', '.join(FAULTS)}")
    args = parser.parse_args(argv)
    names = args.only or list(FAULTS)
    progress = Progress(len(names))
    rows, seen, wrong = [], [], []
    for name in names:
        progress.step(name)
        fault = FAULTS[name]
        began = time.monotonic()
        try:
            outcome = asyncio.run(fault.run(**(fault.short if args.short else fault.full)))
        except (AssertionError, OSError, asyncio.TimeoutError) as failure:
            wrong.append(f"{name}: {type(failure).__name__} {str(failure)[:500]}")
            continue
        rows.append(cells(outcome, time.monotonic() - began))
        seen.append(f"{outcome.fault}: {outcome.figures}")
        wrong += [f"{name}: {sentence}" for sentence in outcome.wrong]
    progress.clear()
    print("Witnesses: messages heard, of them lost, doubled or out of order, p99 and worst latency in ms.")
    print("The server's process: MiB resident before, at the peak, and after.\n")
    print(table(HEAD, rows), *seen, sep="\n")
    if wrong:
        sys.exit("\n".join(["", "Not as it must be:", *wrong]))


if __name__ == "__main__":
    main()

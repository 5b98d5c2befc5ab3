"""``python -m tests.tools.simulation``: random programs against the actors, each under a schedule of its own.

Each seed decides one program and one schedule, so a seed that breaks something breaks it again.
"""

import argparse
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Optional

from tests.tools.benchmark.report import Progress, table
from tests.tools.simulation.prepared import prepared
from tests.tools.simulation.schedule import BATCH, Failure, run_batch, simulate


def run(schedules: int, seconds: float, seed: int, jobs: int) -> "Counter[str]":
    """Run so many schedules, from ``seed`` on, or as many as so many seconds are enough for. Raises Failure."""
    end = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    firsts = range(seed, seed + schedules, BATCH)
    progress = Progress(len(firsts))
    progress.step("0 schedules")
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        try:
            for batch in pool.map(partial(run_batch, seed + schedules - 1), firsts):
                counts.update(batch)
                progress.step(f"{counts['schedules']:,} schedules")
                if time.monotonic() >= end:
                    break
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            progress.clear()
    return counts


def _trace(seed: int) -> None:
    """Print everything that happens in the schedule of a seed."""
    lines: list[str] = []
    with prepared():
        try:
            simulate(seed, trace=lines)
        finally:
            print("\n".join(lines))


def _arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--schedules", type=int, default=100_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which it ends, even with less than N")
    parser.add_argument("--seed", type=int, help="of the first schedule; the next has the next (default: any)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--trace", action="store_true", help="run the schedule of --seed alone and print all its steps")
    args = parser.parse_args(argv)
    if args.schedules < 1 or args.jobs < 1 or args.seconds <= 0:
        parser.error("--schedules and --jobs must be at least 1, and --seconds more than 0")
    if args.trace and args.seed is None:
        parser.error("--trace needs the --seed")
    return args


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = _arguments(argv)
    seed = random.randrange(10**9) if args.seed is None else args.seed
    try:
        if args.trace:
            _trace(seed)
            return
        counts = run(args.schedules, args.seconds, seed, args.jobs)
    except Failure as failure:
        sys.exit(f"{failure}\nAgain, step by step: python -m tests.tools.simulation --seed {failure.seed} --trace")
    except KeyboardInterrupt:
        sys.exit(130)
    print(table(("", "count"), [(what, f"{many:,}") for what, many in sorted(counts.items())]))
    print(f"Nothing broke, from seed {seed} on.")


if __name__ == "__main__":
    main()

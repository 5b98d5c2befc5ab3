"""``python -m tests.tools.cluster.explore``: random runs of a cluster without sockets; a seed decides each run."""

import argparse
import sys
from collections.abc import Sequence
from typing import Optional

from loguru import logger

from tests.tools.cluster.exploration import explore, minimal, plan


def report(seed: int, steps: int, split: bool) -> str:
    """Return what is wrong with the run of a seed, and the fewest steps that show it; empty if nothing is wrong."""
    whole = plan(seed, steps, split)
    wrong = explore(seed, whole)
    if not wrong:
        return ""
    trace: list[str] = []
    still = explore(seed, minimal(seed, whole, wrong), trace)
    return "\n  ".join([f"seed {seed}: {wrong[0]}", "the least that is needed:", *trace, *still])


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.cluster.explore", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of each plan (default: %(default)s)")
    parser.add_argument("--split", action="store_true", help="have the cluster split and heal as well")
    arguments = parser.parse_args(argv)
    failed = 0
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        text = report(seed, arguments.steps, arguments.split)
        if text:
            failed += 1
            print(text, flush=True)
    print(f"{failed} of {arguments.seeds} runs failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    logger.remove()
    main()

"""``python -m tests.tools.overload CASE``: more than the server can take at once, and what becomes of it.

Each case has a server of its own with the default settings, and two witnesses who chat in another room meanwhile: the
p99 of their messages must stay below 50 ms, and none may be lost. The command fails where a goal is not reached.

Columns: seconds; CPU seconds of the server; seconds that it waited for its core, which other programs had (so much of a
latency is not its own); its resident MiB before, at the peak and after; messages that the witnesses heard, and of them
lost; their p99 and worst latency in ms.
"""

import argparse
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Callable, Optional

import uvloop

from tests.tools.benchmark.report import number, table
from tests.tools.overload import cases
from tests.tools.overload.stage import Outcome

Case = Callable[..., Coroutine[Any, Any, "list[Outcome]"]]

HEAD = ("case", "s", "CPU s", "waited", "MiB", "peak", "after", "heard", "lost", "p99", "worst", "goal")


def cells(outcome: Outcome) -> "list[str]":
    seen = outcome.seen
    return [
        outcome.case,
        number(outcome.seconds, 1),
        number(outcome.cpu_seconds, 2),
        number(outcome.waited, 2),
        *(number(mib) for mib in outcome.mib),
        number(seen.heard),
        number(seen.lost + seen.harmed),
        number(seen.p99, 1),
        number(seen.worst, 1),
        "missed" if outcome.wrong else "reached",
    ]


def _arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_subparsers(metavar="CASE", required=True)

    def add(name: str, case: Case, **sizes: int) -> argparse.ArgumentParser:
        one = chosen.add_parser(name, help=str(case.__doc__).partition("\n")[0], description=case.__doc__)
        one.set_defaults(run=case)
        for size, usual in sizes.items():
            one.add_argument(f"--{size}", type=int, default=usual, metavar="N", help="(default: %(default)s)")
        return one

    kinds = add("storm", cases.storms, members=3000).add_mutually_exclusive_group()
    kinds.add_argument("--plain", action="store_const", dest="kinds", const=[False], help="without events only")
    kinds.add_argument("--events", action="store_const", dest="kinds", const=[True], help="with events only")
    add("retries", cases.retries, members=3000)
    add("same-name", cases.same_name, members=10_000)
    add("replays", cases.replays, joiners=150, rounds=5)
    add("late-reader", cases.late_reader, ttl=30)
    add("log-pipe", cases.log_pipe, connections=2000)
    add("list", cases.lists, topics=10_000, askers=100)
    add("refused", cases.refused, peers=300)
    growth = add("growth", cases.growth, joins=200)
    growth.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000, 5000], help="(default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = vars(_arguments(argv))
    run: Case = options.pop("run")
    outcomes = uvloop.run(run(**options))
    print(table(HEAD, map(cells, outcomes)))
    print(*(f"{outcome.case}: {outcome.figures}" for outcome in outcomes), sep="\n", flush=True)
    wrong = [f"{outcome.case}: {sentence}" for outcome in outcomes for sentence in outcome.wrong]
    if wrong:
        sys.exit("\n".join(["Not as it must be:", *wrong]))


if __name__ == "__main__":
    main()

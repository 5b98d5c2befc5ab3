"""``python -m tests.tools.benchmark``: this server and its peers side by side, under the same load.

Servers take turns (A B A B ...), one at a time, on a core of their own; the load generator has another. Figures are
medians over the rounds. CPU time is the server process's own, so it holds on a noisy machine better than a rate does.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Callable, Optional, TypeVar

from tests.tools.benchmark import plot, report
from tests.tools.benchmark.cases import CASES, GROWTH, USUAL, Case
from tests.tools.benchmark.fairness import CROWD, Fairness, measure_fairness
from tests.tools.benchmark.load import Load, Result
from tests.tools.benchmark.servers import (
    WORKERS,
    Server,
    ServerFailed,
    allow_open_files,
    cores,
    find_servers,
    on_core,
    running,
)

Figures = TypeVar("Figures", Result, Fairness)


def measure(case: Case, seconds: float, server: Server) -> Result:
    """One run of one server, from its start to its end."""
    allow_open_files(case.members)
    where = cores()
    with running(server, where.server) as process, on_core(where.load), closing(Load(process, case)) as load:
        return load.measure(seconds)


def measure_pair(seconds: float, server: Server) -> Fairness:
    """As ``measure``, for ``--fairness``."""
    allow_open_files(CROWD.members)
    where = cores()
    with running(server, where.server) as process, on_core(where.load):
        return measure_fairness(process, seconds)


class Turns:
    """Servers that take turns, ``rounds`` times each, with a progress bar over so many ``measurements`` of them."""

    def __init__(self, servers: Sequence[Server], rounds: int, measurements: int) -> None:
        self._servers = [*servers] * rounds
        self._progress = report.Progress(measurements * len(self._servers))

    def take(self, what: str, run: Callable[[Server], Figures]) -> dict[str, Figures]:
        """The median of each figure by itself, for each server by its name."""
        runs: dict[str, list[Figures]] = {}
        for server in self._servers:
            self._progress.step(f"{what}: {server.title}")
            runs.setdefault(server.name, []).append(run(server))
        self._progress.clear()
        return {name: type(many[0])(*map(statistics.median, zip(*many))) for name, many in runs.items()}


def _cases(args: argparse.Namespace, servers: Sequence[Server]) -> None:
    names = args.case or USUAL
    turns = Turns(servers, args.rounds, len(names))
    results = {}
    for name in names:
        results[name] = turns.take(name, partial(measure, CASES[name], args.seconds))
        _print(f"{name}: {CASES[name].description()}", report.comparison(results[name]))
    if args.plot:
        plot.plot_cases(args.plot, results, _titles(servers))


def _growth(args: argparse.Namespace, servers: Sequence[Server]) -> None:
    turns = Turns(servers, args.rounds, sum(map(len, GROWTH.values())))
    results = {}
    for what, cases in GROWTH.items():
        curve = [turns.take(case.name, partial(measure, case, args.seconds)) for case in cases.values()]
        results[what] = list(cases), {server.name: [point[server.name] for point in curve] for server in servers}
        _print(f"{what}: CPU microseconds of the server per delivery", report.growth(*results[what]))
    if args.plot:
        plot.plot_growth(args.plot, results, _titles(servers))


def _fairness(args: argparse.Namespace, servers: Sequence[Server]) -> None:
    results = Turns(servers, args.rounds, 1).take("fairness", partial(measure_pair, args.seconds))
    _print(
        f"fairness: a pair in a quiet room, while another room is silent, and busy ({CROWD.description()})",
        report.fairness(results),
    )


def _titles(servers: Sequence[Server]) -> Mapping[str, str]:
    return {server.name: server.title for server in servers}


def _print(heading: str, table: str) -> None:
    print(f"\n{heading}\n{table}", flush=True)


def _arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--case", action="append", choices=CASES, help="repeatable (default: all but idle)")
    load.add_argument("--growth", action="store_true", help="more and more members in a room, more and more rooms")
    load.add_argument("--fairness", action="store_true", help="a pair in a quiet room, beside a room that is not")
    parser.add_argument("--server", action="append", metavar="NAME", help="repeatable (default: all that are found)")
    parser.add_argument("--rounds", type=int, default=3, help="that each server is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in each (default: %(default)s)")
    parser.add_argument("--plot", metavar="FILE.png", help="also draw the cases, or the growth (needs matplotlib)")
    parser.add_argument("--node-modules", metavar="DIR", help="that holds ws (default: where Node.js looks: NODE_PATH)")
    parser.add_argument("--bun", metavar="PATH", help="the program (default: on the PATH)")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds and --seconds must be more than 0")
    if args.plot and args.fairness:
        parser.error("--plot draws the cases, or with --growth the growth; there is no picture of --fairness")
    return args


def _chosen(names: Optional[Sequence[str]], found: Sequence[Server], missing: Sequence[str]) -> list[Server]:
    """The servers asked for, in the order of ``found``. Ends the program where one is not there."""
    absent = set(names or ()) - {server.name for server in found}
    if absent:
        known = ", ".join(server.name for server in found)
        sys.exit("\n".join([f"No server {', '.join(sorted(absent))} here. Found: {known}.", *missing]))
    return [server for server in found if (server.name in names if names else server.name != WORKERS)]


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = _arguments(argv)
    found, missing = find_servers(args.node_modules, args.bun)
    servers = _chosen(args.server, found, missing)
    if args.plot:
        plot.load_matplotlib()  # before the runs, not after
        if not args.growth and plot.BASE not in _titles(servers):
            sys.exit(f"--plot compares with the naive server: add --server {plot.BASE}.")
    if not args.server:
        for sentence in missing:
            print(sentence, file=sys.stderr)
    run = _growth if args.growth else _fairness if args.fairness else _cases
    try:
        run(args, servers)
    except (ServerFailed, OSError) as failure:
        sys.exit(f"\n{failure}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

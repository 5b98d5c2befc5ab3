"""``python -m tests.tools.chaos``: a chaos run against a server of its own, and its counts.

Without ``--workers`` connections break; with it the server has so many workers, which are killed and stopped besides.
"""

import argparse
import asyncio
import sys

from tests.support.server import APP, Server
from tests.tools.chaos import workers
from tests.tools.chaos.run import run

CLIENTS, TOPICS = 45, 15  # with workers


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--faults", type=int, help="(default: 1000 connections, or 100 workers)")
    parser.add_argument("--workers", type=int, default=1, help="of the server, at least 2 (default: one process)")
    parser.add_argument("--every", type=float, default=2.5, help="seconds between two workers (default: %(default)s)")
    options = parser.parse_args()
    faults = options.faults or (100 if options.workers > 1 else 1000)

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            bar = "#" * (40 * done // faults)
            print(f"\r[{bar:40}] {done}/{faults} faults", end="", file=sys.stderr, flush=True)

    if options.workers > 1:
        chaos = workers.Chaos(options.seed, options.workers, CLIENTS, TOPICS)
        return _show_workers(options.seed, asyncio.run(chaos.run(faults, options.every, progress)))
    server = Server(*APP)
    try:
        report = asyncio.run(run(server.port, options.seed, faults, progress))
        server.terminate()
    finally:
        server.kill()
    print(f"\nseed {options.seed}: {sum(report.faults.values())} faults ({_listed(report.faults)})")
    print(f"{report.messages} messages acknowledged, {report.heard} deliveries, {report.gaps} announced gaps")
    return _judge(report.wrong)


def _show_workers(seed: int, report: workers.Report) -> int:
    print(f"\nseed {seed}: {sum(report.faults.values())} faults of workers ({_listed(report.faults)})")
    print(f"{report.broken} connections broken besides; {report.epochs} epochs, {report.gaps} announced gaps")
    print(f"{report.messages} messages acknowledged, {report.heard} deliveries; slowest ack {report.slowest:.1f} s")
    return _judge(report.wrong)


def _listed(faults: "dict[str, int]") -> str:
    return ", ".join(f"{kind} {count}" for kind, count in faults.items())


def _judge(wrong: "list[str]") -> int:
    print("\n".join(wrong) or "lost 0, doubled 0, out of order 0, names kept")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

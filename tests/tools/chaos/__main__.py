"""``python -m tests.tools.chaos --seed 1 --faults 1000``: a chaos run against a server of its own, and its counts."""

import argparse
import asyncio
import sys

from tests.support.server import APP, Server
from tests.tools.chaos.run import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=1000)
    options = parser.parse_args()

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            bar = "#" * (40 * done // options.faults)
            print(f"\r[{bar:40}] {done}/{options.faults} faults", end="", file=sys.stderr, flush=True)

    server = Server(*APP)
    try:
        report = asyncio.run(run(server.port, options.seed, options.faults, progress))
        server.terminate()
    finally:
        server.kill()
    kinds = ", ".join(f"{kind} {count}" for kind, count in report.faults.items())
    print(f"\nseed {options.seed}: {sum(report.faults.values())} faults ({kinds})")
    print(f"{report.messages} messages acknowledged, {report.heard} deliveries, {report.gaps} announced gaps")
    print("\n".join(report.wrong) or "lost 0, doubled 0, out of order 0, names kept")
    return bool(report.wrong)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.tools.cluster``: the cluster under faults, in full."""

import argparse
import asyncio
import time

from tests.tools.cluster.chaos import Chaos


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.cluster", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--topics", type=int, default=50)
    arguments = parser.parse_args()
    began = time.monotonic()

    async def run() -> None:
        chaos = Chaos(arguments.seed, arguments.nodes, arguments.clients, arguments.topics, print)
        report = await chaos.run(arguments.faults)
        print(f"{dict(report.faults)} in {time.monotonic() - began:.0f} s")
        print(f"{report.stints} stints, {report.acked:,} messages acknowledged, {report.heard:,} frames heard")
        print(f"slowest ack of what was said just after a kill: {report.slowest:.2f} s")
        print("\n".join(report.wrong) or "nothing lost, doubled or out of order; names unique; /list exact")

    asyncio.run(run())


if __name__ == "__main__":
    main()

"""``python -m tests.tools.streams``: random byte streams to both lanes and to a model, under one kind of server.

A seed decides the streams. What differs is printed with the command that plays it again.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Optional

from tests.tools.benchmark.report import table
from tests.tools.streams.run import IMPLEMENTATIONS, LOOPS, compare, servers
from tests.tools.streams.streams import stream


def _arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.streams", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=10_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: any")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="play this stream alone, as often as --streams says")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0], help="of the servers (default: %(default)s)")
    parser.add_argument("--ws", choices=IMPLEMENTATIONS, default=IMPLEMENTATIONS[0], help="default: %(default)s")
    parser.add_argument("--tls", action="store_true", help="default: no TLS")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = _arguments(argv)
    seed = random.randrange(10**9) if args.seed is None else args.seed
    if args.only is None:
        streams = (stream(seed, number) for number in range(args.streams))
    else:
        streams = (stream(seed, args.only, take) for take in range(args.streams))
    counts: Counter[str] = Counter()
    with servers(args.loop, args.ws, args.tls) as places:
        found = asyncio.run(compare(places, streams, counts))
        print(table(("", "count"), [(what, f"{many:,}") for what, many in sorted(counts.items())]))
        if found:
            again = f"--seed {seed} --loop {args.loop} --ws {args.ws}{' --tls' * args.tls}"
            number = found[0].stream.name.partition("/")[2]
            sys.exit(f"{found[0]}\nAgain: python -m tests.tools.streams --only {number} --streams 100 {again}")
        print(f"No difference, seed {seed}.")


if __name__ == "__main__":
    main()

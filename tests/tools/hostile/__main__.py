"""``python -m tests.tools.hostile``: every kind of hostile bytes, many times; random input; tables of the outcomes."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Optional

from tests.support.server import Server
from tests.support.websocket.inputs import FRAMES, check_many
from tests.tools.benchmark.report import Progress, table
from tests.tools.hostile.attack import COMMANDS, SETTINGS, TROUBLE, Attack, memory
from tests.tools.hostile.cases import CASES, HANDSHAKES
from tests.tools.hostile.judges import judge_at_random, judge_decoding


def _arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10, help="that each kind is sent (default: %(default)s)")
    parser.add_argument("--kind", action="append", choices=[*CASES, *HANDSHAKES], help="repeatable (default: all)")
    parser.add_argument("--inputs", type=int, default=0, help="random frames into the decoder (default: none)")
    parser.add_argument("--streams", type=int, default=0, help="random bytes into connections (default: none)")
    parser.add_argument(
        "--server", choices=COMMANDS, default="uvicorn", help="how it is started (default: %(default)s)"
    )
    return parser.parse_args(argv)


async def _send_kinds(server: Server, times: int, kinds: Sequence[str]) -> list[str]:
    rows: list[list[str]] = []
    wrong: list[str] = []
    progress = Progress(len(kinds))
    async with Attack(server) as attack:
        for kind in kinds:
            progress.step(kind)
            case = {**CASES, **HANDSHAKES}[kind]
            row = [kind]
            for joined in (False, True) if case.handshake else (False,):
                endings = await attack.times(times, case, joined)
                if not set(endings) <= set(case.ends):
                    wrong.append(f"{kind}: {dict(endings)}, not {' or '.join(case.ends)}")
                row.append(_counts(endings))
            rows.append([*row, ""][:3])
    progress.clear()
    print(table(("kind", "ends before the join", "ends after the join"), rows))
    return wrong + _judge(attack)


def _counts(endings: "Counter[str]") -> str:
    return ", ".join(f"{ending}: {count:,}" for ending, count in endings.most_common())


def _judge(attack: Attack) -> list[str]:
    """Print what the attack has done to others; returns what is wrong with it."""
    seen, before, after = attack.witnesses, attack.before, attack.after
    print(
        f"witnesses: {seen.said:,} messages, {seen.lost} lost, {seen.doubled} doubled, {seen.reordered} out of order\n"
        f"descriptors: {before.descriptors} before, {after.descriptors} after\n"
        f"tasks: {before.tasks} before, {after.tasks} after\n"
        f"MiB: {before.mib:.0f} before, {after.mib:.0f} after, {memory(attack.server.pid, 'VmHWM'):.0f} at most\n"
    )
    return attack.wrong


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = _arguments(argv)
    wrong: list[str] = []
    if args.inputs:
        done = check_many(args.inputs, FRAMES, judge_decoding)
        print(f"{done:,} random frames: each read or refused with a reason\n")
    server = Server(*COMMANDS[args.server], CHAT_PORT="0", **SETTINGS)
    try:
        if args.times:
            wrong += asyncio.run(_send_kinds(server, args.times, args.kind or [*CASES, *HANDSHAKES]))
        if args.streams:
            attack = judge_at_random(server, args.streams)
            print(f"{args.streams:,} random streams: each answered by the contract, or not at all")
            wrong += _judge(attack)
        server.terminate(trouble=TROUBLE)
    finally:
        server.kill()
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()

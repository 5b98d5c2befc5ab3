"""Every fault by its name: what does it, how much of it there is in full, and how much in the short form."""

from collections.abc import Coroutine
from typing import Any, Callable, NamedTuple

from tests.tools.faults import churn, floods, gone, inside, stalled
from tests.tools.faults.scene import STEADY, Outcome

Sizes = dict[str, Any]

WARMING_UP = 0.25  # in runs too short to have a plateau


class Fault(NamedTuple):
    run: Callable[..., Coroutine[Any, Any, Outcome]]
    full: Sizes
    short: Sizes


FAULTS = {
    "resets": Fault(gone.resets, {"clients": 1000}, {"clients": 100}),
    "kills": Fault(gone.kills, {"clients": 1000, "processes": 4}, {"clients": 100, "processes": 2}),
    "stalls": Fault(
        stalled.stalls,
        {"readers": 200, "stall_timeout": 10.0, "most_ratio": 2.0},
        {"readers": 20, "stall_timeout": 2.0, "most_ratio": None},
    ),
    "crashes": Fault(
        inside.crashes,
        {"topics": 20, "messages": 5000, "every": 1000},
        {"topics": 2, "messages": 500, "every": 100},
    ),
    "descriptors": Fault(
        inside.descriptors, {"times": 20, "loop": "uvloop", "most_seconds": 2.0}, {"times": 1, "loop": "uvloop"}
    ),
    "descriptors-asyncio": Fault(
        inside.descriptors, {"times": 5, "loop": "asyncio", "most_seconds": 2.0}, {"times": 1, "loop": "asyncio"}
    ),
    "sigterms": Fault(
        stalled.sigterms,
        {"times": 20, "members": 500, "stalled": 20},
        {"times": 1, "members": 30, "stalled": 5},
    ),
    "joins-on-sockets": Fault(
        churn.real_joins,
        {"joins": 60_000, "topics": 10_000, "most_growth": STEADY},
        {"joins": 300, "topics": 100, "most_growth": WARMING_UP},
    ),
    "joins-of-actors": Fault(
        churn.many_joins,
        {"joins": 1_000_000, "topics": 10_000, "most_growth": STEADY},
        {"joins": 10_000, "topics": 200, "most_growth": WARMING_UP},
    ),
    "flood-of-joins": Fault(floods.joins, {"connections": 9_998, "beyond": 200}, {"connections": 100, "beyond": 20}),
    "flood-of-lists": Fault(
        floods.lists,
        {"topics": 10_000, "clients": 50, "seconds": 10.0},
        {"topics": 100, "clients": 10, "seconds": 0.5},
    ),
    "flood-of-messages": Fault(floods.messages, {"clients": 200, "seconds": 20.0}, {"clients": 20, "seconds": 0.5}),
    "flood-of-long-messages": Fault(
        floods.long_messages, {"topics": 100, "seconds": 30.0}, {"topics": 5, "seconds": 0.5}
    ),
    "flood-of-refused-frames": Fault(
        floods.refused_frames, {"clients": 200, "seconds": 20.0}, {"clients": 20, "seconds": 0.5}
    ),
    "flood-of-oversized-frames": Fault(
        floods.oversized, {"clients": 1000, "hang_up": False}, {"clients": 100, "hang_up": True}
    ),
    "flood-of-pings": Fault(floods.pings, {"clients": 20, "seconds": 13.0}, {"clients": 2, "seconds": 0.5}),
    "flood-of-fragments": Fault(
        floods.fragments, {"clients": 20, "seconds": 13.0, "ping": 20.0}, {"clients": 2, "seconds": 0.5, "ping": 1.0}
    ),
}

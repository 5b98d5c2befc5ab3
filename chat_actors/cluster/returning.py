"""Members of before: whom a topic is to take in again, with names and tokens, and with what is known of its past."""

from typing import Callable, Optional

from msgspec import Struct

from chat_actors.actors.events import Departed, Restore, Returning
from chat_actors.actors.outbox import Outbox
from chat_actors.cluster.gather import Legacy, linked, messages_of, refs_of
from chat_actors.cluster.seats import Seat
from chat_actors.cluster.wire import SeatState
from chat_actors.protocol.codes import CloseCode


class Return(Struct, eq=False):
    """``foreign``: it was a member of another epoch of the topic; ``state``: what its relay says of it."""

    foreign: bool
    state: SeatState
    seat: Seat


def newest_of_each(returns: list[Return]) -> list[Return]:
    """Where somebody has resumed elsewhere and one of two connections was not told yet, the younger one counts."""
    tokens: set[str] = set()
    newest = []
    for one in sorted(returns, key=lambda one: one.state.age):
        token = one.state.token
        if token and token in tokens:
            one.seat.close(CloseCode.RESUMED_ELSEWHERE)
        else:
            tokens.add(token)
            newest.append(one)
    # Oldest first, those of another line behind.
    return sorted(newest, key=lambda one: (one.foreign, -one.state.age))


def restoration(
    topic: str,
    returns: list[Return],
    legacy: Optional[Legacy],
    last_id: int,
    now: float,
    done: Callable[[list[str], dict[Outbox, str]], None],
) -> Restore:
    """What the topic is to be told of them, and of its past if it begins with it. ``now``: monotonic seconds."""
    parcels = [] if legacy is None else legacy.parcels
    bequest = None if legacy is None else legacy.bequest
    messages = messages_of(parcels, now)
    refs = refs_of(parcels, messages)
    members = [
        Returning(
            one.seat,
            one.state.username,
            one.state.token,
            one.state.events,
            refs.get(one.state.token, {}) if one.state.token else None,
        )
        for one in returns
    ]
    departed = [
        Departed(gone.username, gone.token, now + gone.remaining, linked(gone.refs, messages))
        for gone in (bequest.departed if bequest is not None else [])
    ]
    epoch = "" if bequest is None else bequest.epoch
    return Restore(topic, members, done, epoch, messages, last_id, departed)

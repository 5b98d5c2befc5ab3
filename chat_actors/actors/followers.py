"""Followers: members that are being told from the history, piece by piece, as they read. No asyncio.

A follower keeps no copy of what it has not read, only the id through which it has been told.
"""

from msgspec import Struct

from chat_actors.actors.events import Join
from chat_actors.protocol.frames import replayed
from chat_actors.room.history import History, Stored
from chat_actors.room.members import Member

PIECE_BYTES = 16 * 1024  # of the history that a follower is told at once: what waits for it in this process
MAX_PIECE_BYTES = 64 * 1024  # the same, of one that has read all pieces before: each is twice the one before
SHARED_SECONDS = 0.1  # for which others may be told the same piece: by so much its ``remaining_ms`` may be too high


class Follower(Struct, eq=False):
    """Member that is being told from the history.

    ``seen``: the id through which it has been told.
    ``newest``: the id of the newest message when it joined; it is told those after it as they are, not as replayed.
    ``piece``: bytes that it is told at once.
    ``own``, ``acks``: the ids of its own messages since then, and its acks by the id after which they come.
    """

    join: Join
    member: Member
    seen: int
    newest: int
    piece: int
    own: set[int] = set()
    acks: dict[int, bytes] = {}

    @classmethod
    def begin(cls, join: Join, member: Member, newest: int) -> "Follower":
        """Make the follower of a join. It has seen all, unless it asks for a replay."""
        return cls(join, member, newest, newest, PIECE_BYTES)

    def grow(self) -> None:
        """Tell it twice as much at once: it has read what it was told."""
        self.piece = min(2 * self.piece, MAX_PIECE_BYTES)

    def acknowledge(self, newest: int, ack: bytes, is_own: bool) -> None:
        """Keep an ack until it has been told the message ``newest``; ``is_own``: that is its own, else a duplicate."""
        self.acks[newest] = self.acks.get(newest, b"") + ack
        if is_own:
            self.own.add(newest)

    def frames(self, messages: list[Stored], now: float) -> bytes:
        """Return the frames that these messages are to it, oldest first; ``now``: monotonic seconds."""
        pieces = [self.acks.pop(self.seen, b"")]
        for message in messages:
            if message.id not in self.own:
                is_replayed = message.id <= self.newest
                pieces.append(replayed(message.frame, message.remaining_ms(now)) if is_replayed else message.frame)
            pieces.append(self.acks.pop(message.id, b""))
        return b"".join(pieces)


class Replay:
    """Pieces of the history, as they are told in one turn: made once for all followers who are told the same.

    A turn with very many followers is long: then a piece is made again, so that its ``remaining_ms`` stay true.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        # By ``seen`` and ``piece``: until when it is told as it is (monotonic seconds), the messages, and their frames.
        self._pieces: dict[tuple[int, int], tuple[float, list[Stored], bytes]] = {}

    def piece(self, follower: Follower, now: float) -> tuple[list[Stored], bytes]:
        """Return the next messages for a follower, oldest first, and their frames; empty if there are none.

        ``now``: monotonic seconds.
        """
        key = follower.seen, follower.piece
        known = self._pieces.get(key)
        if known is not None:
            until, messages, frames = known
            if now < until and messages[-1].id <= follower.newest and not follower.acks:
                return messages, frames
        messages = self._history.after(*key)
        if not messages:
            return messages, b""
        alike = messages[-1].id <= follower.newest and not follower.acks
        frames = follower.frames(messages, now)
        if alike:
            self._pieces[key] = now + SHARED_SECONDS, messages, frames
        return messages, frames

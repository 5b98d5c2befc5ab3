"""The names of a topic's members, as those on a node who asked for events know them. No asyncio, no sockets."""

import msgspec
from msgspec import UNSET

from chat_actors.cluster.wire import Renaming
from chat_actors.protocol.frames import Presence, Renamed, finished, payloads

_presence = msgspec.json.Decoder(Presence)


class Roster:
    """Oldest member first."""

    def __init__(self, names: list[str]) -> None:
        self._names = dict.fromkeys(names)  # in this order, and found at once: a topic may have many members

    @property
    def names(self) -> list[str]:
        return list(self._names)

    def note(self, notice: bytes) -> bool:
        """A notice (a finished frame) is on its way to them: who has come, and who has left.

        Return False if it names nobody, for there are too many: those who hear it know no names from then on.
        """
        if b'"type":"presence"' not in notice:
            return True
        (payload,) = payloads(notice)
        presence = _presence.decode(payload)
        if presence.joined is presence.left is UNSET:
            return False
        for name in presence.left or ():
            self._names.pop(name, None)
        for name in presence.joined or ():
            self._names.setdefault(name)  # one's own coming is known from ``joined``
        return True

    def change(self, names: list[str], renamed: list[Renaming]) -> list[bytes]:
        """The names are others, for what happened was not seen from here: the notices that tell it."""
        known, self._names = self._names, dict.fromkeys(names)
        notices = []
        for renaming in renamed:
            if renaming.before in known:
                del known[renaming.before]
                known[renaming.after] = None
                notices.append(finished(Renamed(renaming.before, renaming.after)))
        left = [name for name in known if name not in self._names]
        joined = [name for name in self._names if name not in known]
        if joined or left:
            presence = Presence(joined=joined or UNSET, left=left or UNSET, users=max(1, len(names)))
            notices.append(finished(presence))
        return notices


def counted(users: int, renamed: list[Renaming]) -> list[bytes]:
    """The same for members who know no names, or know them no more: what they are called themselves may be new."""
    notices = [finished(Presence(users=max(1, users)))]
    return notices + [finished(Renamed(renaming.before, renaming.after)) for renaming in renamed]

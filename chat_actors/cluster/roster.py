"""The names of a topic's members, as those on a node who asked for events know them. No asyncio, no sockets."""

import msgspec

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

    def note(self, notice: bytes) -> None:
        """A notice (a finished frame) is on its way to them: who has come, or has left."""
        if b'"type":"presence"' not in notice:
            return
        (payload,) = payloads(notice)
        presence = _presence.decode(payload)
        if presence.event == "joined":
            self._names.setdefault(presence.username)  # one's own coming is known from ``joined``
        else:
            self._names.pop(presence.username, None)

    def change(self, names: list[str], renamed: list[Renaming]) -> list[bytes]:
        """The names are others, for what happened was not seen from here: the notices that tell it."""
        known, self._names = self._names, dict.fromkeys(names)
        notices = []
        for renaming in renamed:
            if renaming.before in known:
                del known[renaming.before]
                known[renaming.after] = None
                notices.append(finished(Renamed(renaming.before, renaming.after)))
        users = len(known)
        for name in known:
            if name not in self._names:
                users -= 1
                notices.append(finished(Presence("left", name, max(1, users))))
        for name in self._names:
            if name not in known:
                users += 1
                notices.append(finished(Presence("joined", name, users)))
        return notices

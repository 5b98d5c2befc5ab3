"""The names of a topic's members, as those on a node who asked for events know them. No asyncio, no sockets."""

import msgspec

from chat_actors.cluster.wire import Renaming
from chat_actors.protocol import Presence, Renamed, finished, payloads

_presence = msgspec.json.Decoder(Presence)


class Roster:
    """``names``: oldest member first."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def note(self, notice: bytes) -> None:
        """A notice (a finished frame) is on its way to them: who has come, or has left."""
        if b'"type":"presence"' not in notice:
            return
        (payload,) = payloads(notice)
        presence = _presence.decode(payload)
        known = presence.username in self.names  # one's own coming is known from ``joined``
        if presence.event == "joined" and not known:
            self.names.append(presence.username)
        elif presence.event == "left" and known:
            self.names.remove(presence.username)

    def change(self, names: list[str], renamed: list[Renaming]) -> list[bytes]:
        """The names are others, for what happened was not seen from here: the notices that tell it."""
        known, notices = self.names, []
        for renaming in renamed:
            if renaming.before in known:
                known[known.index(renaming.before)] = renaming.after
                notices.append(finished(Renamed(renaming.before, renaming.after)))
        users = len(known)
        for name in [name for name in known if name not in names]:
            users -= 1
            notices.append(finished(Presence("left", name, max(1, users))))
        for name in [name for name in names if name not in known]:
            users += 1
            notices.append(finished(Presence("joined", name, users)))
        self.names = list(names)
        return notices

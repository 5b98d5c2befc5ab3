"""The mailbox of a relay by itself: what it forwards at once, and what it does once the relay has ended."""

from chat_actors.actors.events import Expire, Send, TopicEvent
from chat_actors.cluster.guests import RelayMailbox
from tests.support.fakes import FakeMember, in_clean_loop


@in_clean_loop
async def test_a_message_is_forwarded_at_once_unless_mail_waits_before_it() -> None:
    forwarded: list[Send] = []
    mailbox = RelayMailbox(forwarded.append)
    member = FakeMember()
    mailbox.put_nowait(Send(member, "one"))
    mailbox.put_nowait(Expire())
    mailbox.put_nowait(Send(member, "two"))
    assert [send.message for send in forwarded] == ["one"]
    assert mailbox.qsize() == 2


@in_clean_loop
async def test_a_relay_that_has_ended_forwards_nothing_more() -> None:
    forwarded: list[Send] = []
    undelivered: list[TopicEvent] = []
    mailbox = RelayMailbox(forwarded.append)
    mailbox.end(undelivered.append)
    mailbox.put_nowait(Send(FakeMember(), "one"))
    mailbox.put_nowait(None)
    assert (forwarded, [type(event) for event in undelivered], mailbox.qsize()) == ([], [Send], 0)

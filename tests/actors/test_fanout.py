"""The fan-out of one turn, with bytes in place of frames."""

import asyncio
from typing import NamedTuple, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_actors.actors.fanout import MAX_BYTES, MAX_FRAMES, STRIDE_BYTES, STRIDE_MEMBERS, FanOut
from chat_actors.actors.outbox import Outbox
from chat_actors.room.members import Member
from tests.support.fakes import FakeMember, in_clean_loop, log_lines


def everyone(*events: bool) -> tuple[list[FakeMember], dict[Outbox, Member]]:
    """Members, each with or without events."""
    members = [FakeMember() for _ in events]
    return members, {member: Member("", "", events=wants) for member, wants in zip(members, events)}


@in_clean_loop
async def test_all_members_that_did_not_send_get_the_same_bytes_object() -> None:
    (alice, bob, carol), members = everyone(False, False, True)
    fan_out = FanOut()
    fan_out.message(b"one.", alice, b"ack1.")
    fan_out.message(b"two.", alice, b"ack2.")
    await fan_out.write(members)
    assert (alice.writes, bob.writes) == ([b"ack1.ack2."], [b"one.two."])
    assert bob.writes[0] is carol.writes[0]


@in_clean_loop
async def test_a_way_out_that_fails_costs_the_others_nothing() -> None:
    (alice, bob, carol), members = everyone(False, False, False)
    bob.write = None  # type: ignore[assignment]  # as a bug would
    fan_out = FanOut()
    fan_out.message(b"one.", alice, b"ack1.")
    with log_lines() as lines:
        await fan_out.write(members)
    assert (alice.writes, carol.writes) == ([b"ack1."], [b"one."])
    assert len([line for line in lines if "member write failed" in line]) == 1


@in_clean_loop
async def test_a_single_frame_is_not_copied() -> None:
    (alice, bob), members = everyone(False, False)
    frame = bytes(bytearray(b"one."))
    fan_out = FanOut()
    fan_out.message(frame, alice, b"ack.")
    await fan_out.write(members)
    assert bob.writes[0] is frame


@in_clean_loop
async def test_all_without_events_get_the_same_bytes_object_beside_those_with() -> None:
    (alice, bob, carol, dave, erin), members = everyone(False, False, False, True, True)
    fan_out = FanOut()
    fan_out.message(b"one.", alice, b"ack.")
    fan_out.notice(b"notice.")
    await fan_out.write(members)
    assert (bob.writes, dave.writes) == ([b"one."], [b"one.notice."])
    assert bob.writes[0] is carol.writes[0]
    assert dave.writes[0] is erin.writes[0]
    assert alice.writes == [b"ack."]


@in_clean_loop
async def test_a_member_without_frames_in_a_turn_is_not_written_to() -> None:
    (alice, bob, carol), members = everyone(False, True, True)
    fan_out = FanOut()
    fan_out.notice(b"notice.")
    await fan_out.write(members)
    assert (alice.writes, bob.writes, carol.writes) == ([], [b"notice."], [b"notice."])
    fan_out = FanOut()
    fan_out.message(b"", alice, b"duplicate.")
    await fan_out.write(members)
    assert (alice.writes, bob.writes, carol.writes) == ([b"duplicate."], [b"notice."], [b"notice."])


class Said(NamedTuple):
    """Output of a turn: a message of a sender, a duplicate from the same sender, or a notice."""

    kind: str
    who: Optional[int]  # the sender


SAID = st.builds(Said, st.sampled_from(["message", "duplicate"]), st.integers(0, 4)) | st.just(Said("notice", None))


@given(
    said=st.lists(SAID, min_size=1, max_size=12),
    events=st.lists(st.booleans(), min_size=5, max_size=5),
    parted=st.none() | st.integers(0, 12),
)
def test_each_member_gets_its_own_frames_in_order(said: list[Said], events: list[bool], parted: Optional[int]) -> None:
    """``parted``: the last member goes after so many frames."""

    def for_member(number: int) -> bytes:
        data = b""
        for place, (kind, who) in enumerate(said[:parted] if number == 4 else said):
            if kind == "notice":
                data += b"notice %d." % place if events[number] else b""
            elif who == number:
                data += b"ack %d." % place
            elif kind == "message":
                data += b"message %d." % place
        return data

    async def write() -> list[bytes]:
        members, present = everyone(*events)
        fan_out = FanOut()
        for place, (kind, who) in enumerate(said):
            if kind == "notice":
                fan_out.notice(b"notice %d." % place)
            elif who is not None:
                frame = b"message %d." % place if kind == "message" else b""
                fan_out.message(frame, members[who], b"ack %d." % place)
        assert len(fan_out) == len(said)
        if parted is not None:
            members[4].write(fan_out.until(parted, members[4], present.pop(members[4])))
        await fan_out.write(present)
        assert all(len(member.writes) <= 1 for member in members)
        return [b"".join(member.writes) for member in members]

    assert asyncio.run(write()) == [for_member(number) for number in range(5)]


@pytest.mark.parametrize("kind", ["message", "duplicate", "notice"])
@pytest.mark.parametrize("size, count", [(1, MAX_FRAMES), (MAX_BYTES // 4, 4), (MAX_BYTES // 4 + 1, 4)])
@in_clean_loop
async def test_a_fan_out_is_full_by_frames_or_by_bytes(kind: str, size: int, count: int) -> None:
    fan_out, alice = FanOut(), FakeMember()
    if kind == "duplicate":  # has no bytes
        size, count = 0, MAX_FRAMES
    for _ in range(count):
        assert not fan_out.full()
        if kind == "notice":
            fan_out.notice(b"x" * size)
        else:
            fan_out.message(b"x" * size, alice, b"ack.")
    assert fan_out.full()


@pytest.mark.parametrize("size, stride", [(1, STRIDE_MEMBERS), (STRIDE_BYTES // 4, 4), (10 * STRIDE_BYTES, 1)])
@in_clean_loop
async def test_others_get_their_turn_between_the_strides_of_a_large_fan_out(size: int, stride: int) -> None:
    members, present = everyone(*[False] * (2 * stride + 1))
    fan_out = FanOut()
    fan_out.message(b"x" * size, FakeMember(), b"ack.")
    writing = asyncio.ensure_future(fan_out.write(present))
    written = []
    while not writing.done():
        await asyncio.sleep(0)
        written.append(sum(len(member.writes) for member in members))
    assert sorted({*written}) == [stride, 2 * stride, 2 * stride + 1]

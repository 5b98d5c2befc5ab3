"""The frames of the window as a topic sends them, byte for byte."""

from typing import Any

import pytest

from tests.support.fakes import in_clean_loop, settle
from tests.support.harness import TopicHarness
from tests.support.window import joined, short, texts, token

NOW = 1_690_000_000


@in_clean_loop
async def test_a_client_that_asks_for_nothing_sees_the_plain_contract_byte_for_byte() -> None:
    room = TopicHarness(history_messages=2)
    watcher = await room.watcher()
    plain = room.join("plain")
    room.send(watcher, "1")
    old = room.ask("alice", since=0, events=True)
    await settle()
    new = room.ask("alice", resume=token(old), since=0, epoch="another")
    room.send(plain, "2", "3", ref="r")  # the same ref: a plain client's is only echoed
    room.send(new, "4", ref="r")
    room.send(new, "4", ref="r")
    room.leave(new)
    await settle()
    await room.clock.advance(31)
    room.send(watcher, "5")
    await settle()
    assert "expired 2" in short(watcher) and "expired 4" in short(watcher)
    assert texts(plain) == [
        '{"type":"joined","username":"plain","topic":"sports","users":3,"ttl":30}',
        f'{{"type":"message","id":1,"username":"watcher","message":"1","timestamp":{NOW}}}',
        f'{{"type":"ack","status":"delivered","id":2,"ref":"r","timestamp":{NOW},"recipients":2}}',
        f'{{"type":"ack","status":"delivered","id":3,"ref":"r","timestamp":{NOW},"recipients":2}}',
        f'{{"type":"message","id":4,"username":"alice","message":"4","timestamp":{NOW}}}',
        f'{{"type":"message","id":5,"username":"watcher","message":"5","timestamp":{NOW + 31}}}',
    ]


@in_clean_loop
async def test_the_frames_of_the_window_go_out_as_the_contract_shows_them() -> None:
    room = TopicHarness(history_messages=1)
    alice = room.ask("alice", events=True)
    room.send(alice, "1")
    room.send(alice, "2", ref="r")
    room.send(alice, "2", ref="r")
    await settle()
    epoch = joined(alice)["epoch"]
    bob = room.ask("bob", since=0, epoch=epoch, events=True)
    await settle()
    room.leave(bob)
    await settle()
    window = '"epoch":"{}","last_id":{},"resume":"{}"'
    assert texts(alice) == [
        '{"type":"joined","username":"alice","topic":"sports","users":1,"ttl":30,'
        + window.format(epoch, 0, token(alice))
        + ',"members":["alice"]}',
        f'{{"type":"ack","status":"delivered","id":1,"timestamp":{NOW},"recipients":0}}',
        f'{{"type":"ack","status":"delivered","id":2,"ref":"r","timestamp":{NOW},"recipients":0}}',
        f'{{"type":"ack","status":"delivered","id":2,"ref":"r","timestamp":{NOW},"recipients":0,'
        '"duplicate":true,"remaining_ms":30000}',
        '{"type":"expired","through":1}',
        '{"type":"presence","joined":["bob"],"users":2}',
        '{"type":"presence","left":["bob"],"users":1}',
    ]
    assert texts(bob) == [
        '{"type":"joined","username":"bob","topic":"sports","users":2,"ttl":30,'
        + window.format(epoch, 2, token(bob))
        + ',"gap":{"from":1,"to":1,"reason":"evicted"},"members":["alice","bob"]}',
        f'{{"type":"message","id":2,"username":"alice","message":"2","timestamp":{NOW},'
        '"replayed":true,"remaining_ms":30000}',
    ]


@pytest.mark.parametrize("wants", [{}, {"since": 0}, {"epoch": "x"}, {"resume": "x"}])
@in_clean_loop
async def test_each_key_of_the_window_brings_epoch_last_id_and_token(wants: dict[str, Any]) -> None:
    room = TopicHarness()
    room.send((await room.enter("bob"))[0], "1")
    alice = room.ask("alice", **wants)
    await settle()
    assert list(joined(alice)) == ["type", "username", "topic", "users", "ttl", "epoch", "last_id", "resume"]
    assert (joined(alice)["last_id"], len(token(alice))) == (1, 22)


@in_clean_loop
async def test_no_two_topics_have_the_same_epoch() -> None:
    rooms = [TopicHarness() for _ in range(50)]
    members = [room.ask("alice") for room in rooms]
    await settle()
    assert len({joined(member)["epoch"] for member in members}) == 50

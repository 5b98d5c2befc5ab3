"""Followers: members that are told what was said before, piece by piece, as they read it."""

import re
from typing import Any, Callable, Optional

import pytest

from chat_actors.actors import followers
from chat_actors.actors.events import Join
from chat_actors.actors.followers import PIECE_BYTES
from chat_actors.actors.topic import REPLAY_BYTES
from chat_actors.protocol.codes import CloseCode
from chat_actors.protocol.frames import Window
from tests.support.fakes import FakeMember, in_clean_loop, log_lines, settle
from tests.support.harness import SupervisorHarness, TopicHarness
from tests.support.window import held, joined, short, token

LONG = "x" * 5000  # three such messages fit into a piece


class Reader(FakeMember):
    """Member whose connection has room only when the test says that it has read."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0  # bytes
        self.deadlines: list[float] = []  # of what was said before, piece by piece
        self.slow: list[str] = []  # why it was dropped
        self.on_write: Callable[[], object] = lambda: None
        self._on_room: Optional[Callable[[], None]] = None

    def write(self, frames: bytes) -> None:
        super().write(frames)
        self.waiting += len(frames)
        self.on_write()

    def write_answer(self, frames: bytes) -> None:
        self.write(frames)

    def write_until(self, frames: bytes, deadline: float) -> None:
        self.deadlines.append(deadline)
        super().write_until(frames, deadline)

    def has_room(self) -> bool:
        return not self.waiting

    def when_room(self, call: Callable[[], None]) -> None:
        assert self._on_room is None
        self._on_room = call

    def drop_slow(self, detail: str) -> None:
        self.slow.append(detail)

    async def read(self) -> list[str]:
        """Read what waits, let the topic go on, and return what it then has been sent more."""
        self.read_nowait()
        before = len(self.writes)
        await settle()
        return words(self)[len(words(self, before)) :]

    def read_nowait(self) -> None:
        self.waiting = 0
        call, self._on_room = self._on_room, None
        if call is not None:
            call()

    @property
    def size(self) -> int:
        return sum(map(len, self.writes))


def words(member: FakeMember, writes: Optional[int] = None) -> list[str]:
    """What it was sent, each frame in a word or two, without what makes a text long."""
    other = FakeMember()
    other.writes = member.writes[:writes]
    return [re.sub(" x+", "", word) for word in short(other)]


class Room(TopicHarness):
    """Topic whose members may be readers."""

    def follow(self, username: str = "late", **wants: Any) -> Reader:
        """Join as one that reads when it is told to. By default it wants all that was said before."""
        reader = Reader()
        self.topic.post(Join("sports", username, reader, reader.reply, Window(**{"since": 0, **wants})))
        return reader

    def say(self, member: FakeMember, *numbers: int) -> None:
        """Send a long message for each number."""
        self.send(member, *[f"{number} {LONG}" for number in numbers])

    async def opened(self, count: int) -> FakeMember:
        """Let alice come and say so many long messages; what she is sent is forgotten."""
        (alice,) = await self.enter("alice")
        self.say(alice, *range(1, count + 1))
        await settle()
        alice.take()
        return alice


def again(*ids: int) -> list[str]:
    return [f"{id} {id} again" for id in ids]


def live(*ids: int) -> list[str]:
    return [f"{id} {id}" for id in ids]


@pytest.fixture(autouse=True)
def pieces_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "MAX_PIECE_BYTES", PIECE_BYTES)


# Pieces.


@in_clean_loop
async def test_the_history_is_told_in_pieces_as_the_follower_reads() -> None:
    room = Room()
    await room.opened(7)
    late = room.follow()
    await settle()
    assert words(late) == ["joined", *again(1, 2, 3)]
    assert await late.read() == again(4, 5, 6)
    assert await late.read() == again(7)
    assert max(map(len, late.writes)) <= PIECE_BYTES
    assert await late.read() == []


@in_clean_loop
async def test_a_follower_that_reads_is_told_twice_as_much_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "MAX_PIECE_BYTES", 4 * PIECE_BYTES)
    room = Room()
    await room.opened(40)
    late = room.follow()
    await settle()
    pieces = [len(words(late)) - 1]
    while late.waiting:
        pieces.append(len(await late.read()))
    assert (pieces[0] < pieces[1] < pieces[2], sum(pieces)) == (True, 40)


@in_clean_loop
async def test_a_newcomer_that_misses_nothing_is_no_follower_whatever_is_said_in_its_turn() -> None:
    room = Room(history_messages=0)
    alice = await room.opened(1)
    late = room.follow()
    room.say(alice, *range(2, 12))
    await settle()
    assert words(late) == ["joined", *live(*range(2, 12))]
    assert (late.slow, late.reply.done()) == ([], True)


@in_clean_loop
async def test_a_message_longer_than_a_piece_is_a_piece() -> None:
    room = Room()
    (alice,) = await room.enter("alice")
    room.send(alice, "1 " + "x" * PIECE_BYTES, "2 " + "x" * PIECE_BYTES)
    late = room.follow()
    await settle()
    assert words(late) == ["joined", *again(1)]
    assert await late.read() == again(2)


@in_clean_loop
async def test_a_piece_must_leave_before_the_first_of_its_messages_is_too_old() -> None:
    room = Room()
    alice = await room.opened(0)
    for number in range(1, 8):
        room.say(alice, number)
        await settle()
        await room.clock.advance(1)
    late = room.follow()
    await settle()
    await late.read()
    await late.read()
    assert late.deadlines == [1030, 1033, 1036]


@in_clean_loop
async def test_each_piece_says_how_long_its_messages_are_still_kept_when_it_is_made() -> None:
    room = Room()
    alice = await room.opened(3)
    await room.clock.advance(2)
    room.say(alice, 4, 5)
    await settle()
    late = room.follow()
    await settle()
    await room.clock.advance(5.25)
    room.clock.wall_time -= 3600  # set by hand
    room.say(alice, 6)
    await late.read()
    told = [(frame["id"], frame.get("remaining_ms")) for frame in late.frames[1:]]
    assert told == [(1, 28_000), (2, 28_000), (3, 28_000), (4, 24_750), (5, 24_750), (6, None)]


@pytest.mark.parametrize("seconds, remaining_ms", [(0.0, 30_000), (0.05, 30_000), (0.125, 29_875), (2.0, 28_000)])
@in_clean_loop
async def test_followers_of_a_turn_share_a_piece_unless_it_is_a_long_turn(seconds: float, remaining_ms: int) -> None:
    room = Room()
    await room.opened(3)
    readers = [room.follow(username) for username in ("first", "second", "third")]
    later = room.clock.now + seconds
    readers[0].on_write = lambda: setattr(room.clock, "now", later)
    await settle()
    told = [{frame["remaining_ms"] for frame in reader.frames[1:]} for reader in readers]
    assert told == [{30_000}, {remaining_ms}, {remaining_ms}]
    first, second, third = (reader.writes[1] for reader in readers)
    assert second is third
    assert (first is second) is (remaining_ms == 30_000)


@in_clean_loop
async def test_nothing_more_than_a_piece_is_kept_for_one_who_does_not_read() -> None:
    room = Room()
    alice = await room.opened(10)
    late = room.follow()
    await settle()
    written, when_told = late.size, held(room.topic)
    assert written < PIECE_BYTES + 1000
    for number in range(11, 60):
        room.say(alice, number)
        await settle()
    assert late.size == written
    await room.clock.advance(30)  # so that the history is as short as it can be
    room.say(alice, *range(60, 70))
    await settle()
    assert held(room.topic) == when_told


@in_clean_loop
async def test_one_who_reads_fast_leaves_turns_to_the_others() -> None:
    room = Room()
    alice = await room.opened(2 * REPLAY_BYTES // len(LONG))
    (bob,) = await room.enter("bob")
    late = FakeMember()  # it has room for all
    room.topic.post(Join("sports", "late", late, late.reply, Window(since=0)))
    heard_by_then: list[int] = []
    late.reply.add_done_callback(lambda _: heard_by_then.append(len(bob.messages)))
    room.say(alice, 1000)
    room.topic.post(Join("sports", "eve", eve := Reader(), eve.reply, None))
    eve.on_write = lambda: room.say(alice, 1001)  # posted in the turn in which the history begins
    await settle()
    assert heard_by_then == [2]
    ids = [frame["id"] for frame in late.frames[1:]]
    assert ids == [*range(1, len(ids) + 1)]
    assert "replayed" not in late.frames[-1]


# What is said meanwhile.


@in_clean_loop
async def test_what_is_said_meanwhile_comes_behind_as_what_it_is() -> None:
    room = Room()
    alice = await room.opened(5)
    late = room.follow()
    room.say(alice, 6)
    await settle()
    room.say(alice, 7)
    await settle()
    assert words(late) == ["joined", *again(1, 2, 3)]
    assert await late.read() == [*again(4, 5), *live(6)]
    room.say(alice, 8)
    assert await late.read() == live(7, 8)
    room.say(alice, 9)
    await settle()  # it needs no room any more: it is a member like the others
    assert words(late)[-1:] == live(9)


@pytest.mark.parametrize("each", [1, 2, 3, 5])
@in_clean_loop
async def test_each_follower_is_told_all_once_in_order_whenever_it_reads(each: int) -> None:
    room = Room()
    alice = await room.opened(6)
    readers: list[tuple[Reader, int, int]] = []
    last = 6
    for turn in range(12):
        since = turn % 4
        readers.append((room.follow(since=since), since, last))
        for reader, _, _ in readers[::each]:
            reader.read_nowait()
        if turn % 2:
            last += 1
            room.say(alice, last)
        await settle()
    for _ in range(20):
        for reader, _, _ in readers:
            await reader.read()
    for reader, since, newest in readers:
        told = words(reader)
        assert told[0] == "joined"
        assert told[1:] == [*again(*range(since + 1, newest + 1)), *live(*range(newest + 1, last + 1))]


# The reply.


@in_clean_loop
async def test_a_join_is_answered_when_its_member_has_read_what_was_said_before() -> None:
    room = Room()
    alice = await room.opened(5)
    late = room.follow()
    await settle()
    assert not late.reply.done()
    room.say(alice, 6, 7)
    await late.read()  # to 6
    assert not late.reply.done()
    await late.read()
    assert late.reply.result() is room.topic.mailbox


@in_clean_loop
async def test_a_follower_that_never_catches_up_may_speak_and_hears_its_acks_in_order() -> None:
    room = Room()
    alice = await room.opened(4)
    late = room.follow()
    await settle()
    room.say(alice, *range(5, 14))
    await settle()
    heard = await late.read() + await late.read()
    assert (heard, late.reply.done()) == ([*again(4), *live(*range(5, 10))], True)  # the replay, and not yet all
    for number in (14, 17, 20):
        room.say(alice, number, number + 1)
        room.say(late, number + 2)
        await settle()
        heard += await late.read()
    while late.waiting:
        heard += await late.read()
    said = [word for number in (14, 17, 20) for word in (*live(number, number + 1), f"{number + 2} ack")]
    assert heard == [*again(4), *live(*range(5, 14)), *said]


@pytest.mark.parametrize("wants", [{"since": 5}, {"since": 99}, {"events": True, "since": 5}])
@in_clean_loop
async def test_a_join_that_has_missed_nothing_is_answered_at_once(wants: dict[str, Any]) -> None:
    room = Room()
    await room.opened(5)
    late = room.follow(**wants)
    await settle()
    assert (words(late), late.reply.done()) == (["joined"], True)


# What it says itself.


@in_clean_loop
async def test_acks_of_what_a_follower_says_stand_in_their_places() -> None:
    room = Room()
    alice = await room.opened(4)
    late = room.follow()
    room.say(alice, 5)
    room.say(late, 6)
    room.say(alice, 7)
    room.say(late, 8)
    await settle()
    assert words(late) == ["joined", *again(1, 2, 3)]
    assert await late.read() == [*again(4), *live(5), "6 ack"]
    assert await late.read() == [*live(7), "8 ack"]
    assert words(alice) == ["5 ack", *live(6), "7 ack", *live(8)]


@pytest.mark.parametrize("since", [0, 1, 2])
@in_clean_loop
async def test_an_ack_of_a_duplicate_stands_where_it_was_asked_for(since: int) -> None:
    room = Room()
    (alice,) = await room.enter("alice")
    bob = room.ask("bob")
    room.send(bob, "1", ref="r")
    room.send(alice, "2")
    await settle()
    resumed = room.follow("bob", since=since, resume=token(bob))
    room.send(resumed, "1", ref="r")
    room.send(alice, "3")
    room.send(resumed, "1", "1", ref="r")
    await settle()
    replay = again(1, 2)[since:]
    assert words(resumed) == ["joined", *replay, "1 ack duplicate", *live(3), *["1 ack duplicate"] * 2]
    room.send(resumed, "4")
    await settle()
    assert words(resumed)[-1] == "4 ack"


@in_clean_loop
async def test_a_duplicate_at_the_end_of_the_history_is_acknowledged() -> None:
    room = Room()
    bob = room.ask("bob")
    room.send(bob, "1", ref="r")
    await settle()
    resumed = room.follow("bob", since=1, resume=token(bob))
    room.send(resumed, "1", ref="r")
    await settle()
    assert words(resumed) == ["joined", "1 ack duplicate"]


# Notices.


@in_clean_loop
async def test_notices_reach_a_follower_at_once() -> None:
    room = Room()
    await room.opened(4)
    late, plain = room.follow(events=True), room.follow("plain")
    await settle()
    (bob,) = await room.enter("bob")
    room.leave(bob)
    await settle()
    told = ["joined", *again(1, 2, 3)]
    assert words(late) == [*told, "bob joined 4", "bob left 3"]
    await room.clock.advance(30)
    assert words(late)[6:] == ["expired 4"]
    assert words(plain) == told


@in_clean_loop
async def test_a_follower_that_reads_in_the_turn_of_a_join_is_told_of_it() -> None:
    room = Room()
    await room.opened(7)
    late = room.follow(events=True)
    await settle()
    late.read_nowait()
    room.join("bob")  # nobody else watches
    await settle()
    assert words(late)[4:] == ["bob joined 3", *again(4, 5, 6)]


# Too late.


@in_clean_loop
async def test_a_follower_is_dropped_if_a_message_expired_before_it_was_told() -> None:
    room = Room()
    alice = await room.opened(4)
    late, ahead = room.follow(), room.follow("ahead")
    await settle()
    await ahead.read()  # all there is
    room.say(alice, 5)
    await room.clock.advance(30)
    assert late.slow == []  # its connection has a deadline of its own
    assert (await late.read(), late.slow) == ([], ["replay not read in time"])
    room.say(alice, 6)
    assert await late.read() == []
    assert (words(ahead)[-1], ahead.slow, late.reply.done()) == ("6 6", [], False)


@in_clean_loop
async def test_a_follower_is_not_told_a_message_at_its_deadline() -> None:
    room = Room()
    await room.opened(4)
    late = room.follow()
    await settle()
    room.clock.now += 30  # and no timer has rung
    assert (await late.read(), late.slow) == ([], ["replay not read in time"])


@in_clean_loop
async def test_a_follower_is_dropped_if_a_message_expires_while_it_is_told_others() -> None:
    room = Room()
    await room.opened(7)
    late = room.follow()

    def read_slowly() -> None:
        late.waiting = 0
        room.clock.now += 10

    late.on_write = read_slowly
    await settle()
    assert (words(late), late.slow) == (["joined", *again(*range(1, 7))], ["replay not read in time"])


@in_clean_loop
async def test_a_follower_goes_on_if_only_messages_expired_that_it_was_told() -> None:
    room = Room()
    alice = await room.opened(3)
    await room.clock.advance(15)
    room.say(alice, *range(4, 8))
    late = room.follow(since=0)
    await settle()
    await room.clock.advance(15)
    assert (await late.read(), late.slow) == (again(4, 5, 6), [])
    assert (await late.read(), late.slow) == (again(7), [])


@in_clean_loop
async def test_a_follower_is_dropped_if_a_message_was_evicted_before_it_was_told() -> None:
    room = Room(history_messages=6)
    alice = await room.opened(6)
    late, ahead = room.follow(events=True), room.follow("ahead", since=2)
    await settle()
    room.say(alice, 7, 8, 9)
    await settle()
    assert (await ahead.read(), ahead.slow) == ([*again(6), *live(7, 8)], [])
    room.say(alice, 10)
    await settle()
    assert (await late.read(), late.slow) == ([], ["replay not read in time"])
    assert (await ahead.read(), ahead.slow, alice.closed) == (live(9, 10), [], None)
    await room.enter("bob")
    assert words(late)[4:] == ["expired 3", "expired 4"]  # nothing after it was dropped


@in_clean_loop
async def test_a_newcomer_is_told_all_though_its_own_turn_evicts_it() -> None:
    room = Room(history_messages=2)
    (alice,) = await room.enter("alice")
    late = room.follow()
    room.send(alice, "1", "2", "3")
    await settle()
    assert (words(late), late.slow) == (["joined", *live(1, 2, 3)], [])


# It goes.


@in_clean_loop
async def test_a_follower_that_leaves_is_forgotten() -> None:
    room = Room()
    alice, watcher = await room.opened(4), await room.watcher()
    before = held(room.topic)
    late = room.follow()
    await settle()
    room.leave(late)
    await settle()
    assert await late.read() == []
    assert words(watcher) == ["late joined 3", "late left 2"]
    await room.clock.advance(30)
    room.say(alice, *range(5, 9))
    await settle()
    assert held(room.topic) == before


@in_clean_loop
async def test_a_follower_whose_session_has_ended_may_read_before_its_leave_comes() -> None:
    room = Room()
    await room.opened(4)
    late = room.follow()
    await settle()
    late.reply.cancel()
    with log_lines() as lines:
        await late.read()
        room.leave(late)
        await settle()
    assert [line.split(" {")[0] for line in lines] == ["INFO member left"]
    assert late.closed is None


@in_clean_loop
async def test_a_follower_that_leaves_in_the_turn_of_its_join_is_told_nothing() -> None:
    room = Room()
    await room.opened(4)
    late = room.follow()
    room.leave(late)
    await settle()
    assert (late.writes, late.reply.done()) == ([], False)


@in_clean_loop
async def test_a_takeover_forgets_the_follower_and_begins_anew() -> None:
    room = Room()
    alice = await room.opened(7)
    old = room.follow("bob")
    await settle()
    new = room.follow("bob", resume=joined(old)["resume"], since=3)
    room.say(alice, 8)
    await settle()
    assert (old.closed, old.reply.done()) == (CloseCode.RESUMED_ELSEWHERE, False)
    assert await old.read() == []
    assert (joined(new)["username"], words(new)) == ("bob", ["joined", *again(4, 5, 6)])
    assert await new.read() == [*again(7), *live(8)]
    assert new.reply.result() is room.topic.mailbox


# Nobody waits for it.


@pytest.mark.parametrize("refused", [True, False])
@in_clean_loop
async def test_a_supervisor_does_nothing_for_a_join_nobody_waits_for(refused: bool) -> None:
    chat = SupervisorHarness()
    member = chat.join("alice")
    if refused:
        Join("sports", "alice", member, member.reply).refuse(CloseCode.OVERLOADED)
        assert member.reply.exception() is not None
    else:
        member.reply.cancel()
    chat.leave(member)
    await settle()
    assert (member.writes, member.closed, await chat.listed()) == ([], None, [])


@in_clean_loop
async def test_a_topic_does_nothing_for_a_join_nobody_waits_for() -> None:
    room = Room()
    watcher = await room.watcher()
    before = held(room.topic)
    late = room.follow()
    late.reply.cancel()
    room.leave(late)
    await settle()
    assert (late.writes, watcher.writes, held(room.topic)) == ([], [], before)


@in_clean_loop
async def test_a_newcomer_that_goes_while_the_others_are_told_is_told_nothing() -> None:
    room = Room()
    alice = await room.opened(2)
    (bob,) = await room.enter("bob")
    bob_was_told = bob.write
    late = room.follow()

    def write(frames: bytes) -> None:
        bob_was_told(frames)
        late.reply.cancel()

    bob.write = write  # type: ignore[method-assign]
    room.say(alice, 3)
    await settle()
    room.leave(late)
    await settle()
    assert (words(bob), late.writes) == (live(3), [])

"""Frames that break the contract, on live sockets: the sender gets an error frame, the others notice nothing."""

import asyncio
import json
import re
from collections import Counter
from typing import Callable, Union

import pytest

from tests.support.server import AHEAD_APP, APP, Client, Frame, Server, Visit, in_loop, put_forward
from tests.support.websocket.wire import CLOSE, CONT, FIN, PING, RSV2, TEXT, RawClient, frame, header, text

StartServer = Callable[..., Server]

SECRET = "the secret"  # part of every text that must not get into the log
DEEP = "[" * 10_000 + "]" * 10_000
DIGITS = "9" * 5_000

Table = dict[str, tuple[Union[str, bytes], str]]  # by its fault: (frame, error code)

BAD_FROM_ANYONE: Table = {
    "not JSON": (SECRET, "invalid_json"),
    "half an object": ('{"message": "' + SECRET, "invalid_json"),
    "nothing": ("", "invalid_json"),
    "an array": (json.dumps([SECRET]), "invalid_json"),
    "a string": (json.dumps(SECRET), "invalid_json"),
    "a number": ("17", "invalid_json"),
    "null": ("null", "invalid_json"),
    "NaN": ('{"username": "x", "topic": "x", "message": NaN}', "invalid_json"),
    "deep nesting": (DEEP, "invalid_json"),
    "deep nesting in a key": (f'{{"username": "x", "topic": "x", "message": {DEEP}}}', "invalid_json"),
    "invalid UTF-8": (b'{"message": "the secret \xff"}', "invalid_json"),
    "an unknown command": ("/the secret", "unknown_command"),
    "an unknown command as a message": ('{"message": " /the secret"}', "unknown_command"),
}
BAD_FROM_A_MEMBER: Table = {
    **BAD_FROM_ANYONE,
    "no message": ('{"text": "the secret"}', "invalid_message"),
    "an empty object": ("{}", "invalid_message"),
    "message is a number": ('{"message": 17}', "invalid_message"),
    "message is null": ('{"message": null}', "invalid_message"),
    "message is a list": ('{"message": ["the secret"]}', "invalid_message"),
    "message is a number of 5,000 digits": (f'{{"message": {DIGITS}}}', "invalid_message"),
    "message is empty": ('{"message": ""}', "empty_message"),
    "message is white space": ('{"message": " \\n\\t "}', "empty_message"),
    "message has a lone surrogate": ('{"message": "the secret \\ud800"}', "invalid_json"),
    "message has 4,097 characters": (json.dumps({"message": SECRET.ljust(4097, "x")}), "message_too_long"),
    "frame has 64 KiB": (json.dumps({"message": SECRET + "x" * (65_536 - 25)}), "message_too_long"),
    "ref is empty": ('{"message": "the secret", "ref": ""}', "invalid_message"),
    "ref has 65 characters": (json.dumps({"message": SECRET, "ref": "x" * 65}), "invalid_message"),
    "ref is a number": ('{"message": "the secret", "ref": 17}', "invalid_message"),
    "a second join": ('{"username": "eve", "topic": "movies"}', "already_joined"),
}
BAD_FROM_A_STRANGER: Table = {
    **BAD_FROM_ANYONE,
    "an empty object": ("{}", "invalid_join"),
    "no topic": ('{"username": "eve"}', "invalid_join"),
    "no username": ('{"topic": "sports"}', "invalid_join"),
    "username is a number": ('{"username": 17, "topic": "sports"}', "invalid_username"),
    "username is a number of 5,000 digits": (f'{{"username": {DIGITS}, "topic": "sports"}}', "invalid_username"),
    "username is empty": ('{"username": "", "topic": "sports"}', "invalid_username"),
    "username has 33 characters": (json.dumps({"username": "x" * 33, "topic": "sports"}), "invalid_username"),
    "username has a newline": ('{"username": "the secret\\n", "topic": "sports"}', "invalid_username"),
    "username has a lone surrogate": ('{"username": "the secret \\udfff", "topic": "sports"}', "invalid_json"),
    "topic is null": ('{"username": "eve", "topic": null}', "invalid_topic"),
    "topic is white space": ('{"username": "eve", "topic": "  "}', "invalid_topic"),
    "topic has 65 characters": (json.dumps({"username": "eve", "topic": "x" * 65}), "invalid_topic"),
    "topic has a newline": ('{"username": "eve", "topic": "the\\nsecret"}', "invalid_topic"),
    "a message before the join": ('{"message": "the secret"}', "not_joined"),
}


whole_or_in_pieces = pytest.mark.parametrize("whole", [True, False], ids=["whole", "in pieces"])  # the two ways in


def cases(table: Table) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("frame, code", table.values(), ids=table)


async def send(eve: Client, frame: Union[str, bytes], whole: bool) -> None:
    """Send a message in one frame, or in two."""
    await eve.connection.send(frame if whole else [frame[:10], frame[10:]])


async def costs_an_error(eve: Client, frame: Union[str, bytes], code: str, whole: bool = True) -> None:
    """A frame is answered with the error of this code."""
    await send(eve, frame, whole)
    error = await eve.recv()
    assert (error["type"], error["error"]) == ("error", code)
    assert error["detail"]


async def is_refused(eve: Client, times: int) -> None:
    """So many bad frames in a row are refused."""
    for _ in range(times):
        assert (await eve.ask("{"))["error"] == "invalid_json"


@whole_or_in_pieces
@cases(BAD_FROM_A_MEMBER)
@in_loop
async def test_a_bad_frame_of_a_member_costs_one_error_and_one_log_line(
    server: Server, frame: Union[str, bytes], code: str, whole: bool
) -> None:
    mark = server.mark()
    async with Visit(server) as visit:
        eve = await visit.join("eve", "sports")
        alice = await visit.join("alice", "sports")
        bob, carol = await visit.join("bob", "movies"), await visit.join("carol", "movies")
        await costs_an_error(eve, frame, code, whole)
        # The connection is open; nothing was stored, numbered or sent to anyone, in this topic or the other.
        assert (await eve.ask({"message": SECRET}))["id"] == 1
        assert (await alice.recv())["id"] == 1
        assert (await bob.ask({"message": SECRET}))["id"] == 1
        assert (await carol.recv())["id"] == 1
        topics = (await eve.ask("/list"))["topics"]  # in any order: two nodes tell their ages a moment apart
        assert {one["topic"]: one["users"] for one in topics} == {"sports": 2, "movies": 2} and len(topics) == 2
    check_log(await refusal_logged(server, mark), code, members=4, topics=2)


@cases(BAD_FROM_A_STRANGER)
@in_loop
async def test_a_wrong_first_frame_may_be_tried_again(server: Server, frame: Union[str, bytes], code: str) -> None:
    mark = server.mark()
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        eve = await visit.connect()
        await costs_an_error(eve, frame, code)
        assert (await eve.ask("/list"))["topics"] == [{"topic": "sports", "users": 1}]
        assert (await eve.join("eve", "sports"))["users"] == 2
        assert (await eve.ask({"message": SECRET}))["id"] == 1
        assert (await alice.recv())["id"] == 1
    check_log(await refusal_logged(server, mark), code, members=2, topics=1)


async def refusal_logged(server: Server, mark: list[int]) -> list[str]:
    """The log lines behind the mark, once the refusal is among them: with two nodes it has a log of its own."""
    known = len(server.lines("frame refused"))
    if not [line for line in server.since(mark) if "frame refused" in line]:
        await server.logged("frame refused", count=known + 1)
    return server.since(mark)


def check_log(lines: list[str], code: str, members: int, topics: int) -> None:
    """The log has one line for the bad frame, one for each join and leave, and no others."""
    event = re.compile(r"\S+ \S+ INFO +(frame refused|member joined|member left|topic created|topic removed) [a-z]+=")
    events = Counter(match and match[1] for match in map(event.match, lines))
    assert events == {
        "frame refused": 1,
        "member joined": members,
        "member left": members,
        "topic created": topics,
        "topic removed": topics,
    }, lines
    (refused,) = [line for line in lines if "frame refused" in line]
    assert refused.lower().endswith(f"code={code!r}")
    assert not any("secret" in line for line in lines)


@pytest.mark.parametrize("joined", [True, False])
@in_loop
async def test_twenty_refused_frames_in_a_row_close_the_connection(server: Server, joined: bool) -> None:
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        eve = await visit.connect()
        if joined:
            await eve.join("eve", "sports")
        await is_refused(eve, times=20)
        assert await eve.close_code() == 1008
        if joined:
            await visit.see_leaves(1, reason="too_many_refused")
        assert (await alice.ask({"message": "hello"}))["recipients"] == 0


@in_loop
async def test_nothing_is_heard_of_what_follows_the_frame_that_closes(server: Server) -> None:
    async with Visit(server) as visit:
        eve = await visit.join("eve", "sports")
        alice = await visit.join("alice", "sports")
        eve.send_at_once(*["{"] * 20, '{"message": "late"}', "{", "/list")
        assert await eve.close_code() == 1008
        await visit.see_leaves(1, reason="too_many_refused")
        hello = await alice.ask({"message": "hello"})
        assert (hello["type"], hello["id"]) == ("ack", 1)


@pytest.mark.parametrize("good", ["/list", {"message": "hello"}])
@in_loop
async def test_a_good_frame_starts_the_count_of_refused_frames_again(server: Server, good: Union[str, Frame]) -> None:
    async with Visit(server) as visit:
        eve = await visit.join("eve", "sports")
        for _ in range(2):
            await is_refused(eve, times=19)
            assert (await eve.ask(good))["type"] in ("ack", "topics")


@in_loop
async def test_a_good_frame_before_the_join_starts_the_count_again(server: Server) -> None:
    async with Visit(server) as visit:
        eve = await visit.connect()
        for _ in range(2):
            await is_refused(eve, times=19)
            assert (await eve.ask("/list"))["type"] == "topics"
        await eve.join("eve", "sports")
        await is_refused(eve, times=19)
        assert (await eve.ask("/list"))["type"] == "topics"


@pytest.mark.parametrize("heartbeat", ['{"type":"ping"}', "ping", ""])
@in_loop
async def test_the_heartbeat_of_a_library_is_answered_and_closes_nothing(server: Server, heartbeat: str) -> None:
    async with Visit(server) as visit:
        stranger, eve = await visit.connect(), await visit.join("eve", "sports")
        for client in (stranger, eve):
            for _ in range(30):
                assert (await client.ask(heartbeat))["type"] == "error"
            assert (await client.ask("/list"))["type"] == "topics"


@in_loop
async def test_a_heartbeat_neither_counts_nor_starts_the_count_again(server: Server) -> None:
    async with Visit(server) as visit:
        eve = await visit.join("eve", "sports")
        await is_refused(eve, times=19)
        assert (await eve.ask("ping"))["error"] == "invalid_json"
        await is_refused(eve, times=1)
        assert await eve.close_code() == 1008


@in_loop
async def test_refused_frames_far_apart_in_time_close_nothing(start: StartServer) -> None:
    server = start(*AHEAD_APP)
    async with Visit(server) as visit:
        eve = await visit.join("eve", "sports")
        for _ in range(30):
            await is_refused(eve, times=1)
            await asyncio.to_thread(put_forward, server, 10)
        await is_refused(eve, times=20)
        assert await eve.close_code() == 1008


HUGE = {
    "text": json.dumps({"message": SECRET}).ljust(65_537),  # a good frame but for the white space at its end
    "binary": json.dumps({"message": SECRET}).ljust(65_537).encode(),
    "more bytes than characters": json.dumps({"message": "é" * 40_000}, ensure_ascii=False),
}


@whole_or_in_pieces
@pytest.mark.parametrize("frame", HUGE.values(), ids=HUGE)
@in_loop
async def test_a_frame_over_64_kib_closes_the_connection(server: Server, frame: Union[str, bytes], whole: bool) -> None:
    mark = server.mark()
    async with Visit(server) as visit:
        eve = await visit.join("eve", "sports")
        alice = await visit.join("alice", "sports")
        await send(eve, frame, whole)
        assert await eve.close_code() == 1009
        await visit.see_leaves(1, reason="frame_too_big")
        hello = await alice.ask({"message": "hello"})
        assert (hello["id"], hello["recipients"]) == (1, 0)
    check_log(await refusal_logged(server, mark), "frame_too_big", members=2, topics=1)


TOO_BIG = frame(FIN | TEXT, bytes(65_537))
GOOD = text(json.dumps({"message": SECRET}))
IN_FRAGMENTS = frame(TEXT, b'{"mess') + frame(FIN | CONT, b'age": "hello"}')
BEFORE: dict[str, tuple[bytes, int]] = {  # the bytes, and how many messages they are
    "nothing": (b"", 0),
    "two messages": (GOOD * 2, 2),
    "a message in fragments": (IN_FRAGMENTS, 1),
    "a ping": (frame(FIN | PING), 0),
}
BEHIND = {
    "nothing": b"",
    "a message": GOOD,
    "a broken frame": frame(FIN | RSV2 | TEXT, b"x"),
    "a close": frame(FIN | CLOSE, (1000).to_bytes(2, "big")),
    "another": TOO_BIG,
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize(("before", "count"), BEFORE.values(), ids=BEFORE)
@in_loop
async def test_a_frame_too_big_is_told_whatever_else_comes_with_it(
    server: Server, before: bytes, count: int, behind: bytes
) -> None:
    async with Visit(server) as visit, RawClient(server.port) as eve:
        alice = await visit.join("alice", "sports")
        await eve.upgrade()
        await eve.join("eve", "sports")
        await eve.send(before + TOO_BIG + behind)
        assert await eve.ending() == "1009"
        await visit.see_leaves(1, reason="frame_too_big")
        # What was whole before it is heard.
        assert [(await alice.recv())["id"] for _ in range(count)] == [*range(1, count + 1)]
        assert (await alice.ask({"message": "hello"}))["id"] == count + 1
    await visit.see_leaves(2)  # Eve's is not one of the visit


@in_loop
async def test_a_frame_too_big_is_told_as_soon_as_its_length_is_known(server: Server) -> None:
    async with RawClient(server.port) as eve:
        await eve.upgrade()
        for byte in header(FIN | TEXT, 65_537):
            await eve.send(bytes([byte]))
        assert await eve.ending() == "1009"


@in_loop
async def test_a_connection_that_does_not_join_in_time_is_closed(start: StartServer) -> None:
    server = start(*AHEAD_APP)
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        eve = await visit.connect()
        assert (await eve.ask("{"))["error"] == "invalid_json"
        assert (await eve.ask("/list"))["type"] == "topics"
        await asyncio.to_thread(put_forward, server, 11)
        assert await eve.close_code() == 4408
        # Alice connected before Eve, so her time to join is over as well; but she has joined.
        assert (await alice.ask({"message": "hello"}))["id"] == 1


@in_loop
async def test_invalid_utf_8_in_a_text_frame_is_the_peers_fault_and_no_traceback(start: Callable[..., Server]) -> None:
    server = start(*APP)
    async with Visit(server) as visit:
        alice = await visit.join("alice", "sports")
        alice.connection.transport.write(bytes([0x81, 0x82, 0, 0, 0, 0, 0xFF, 0xFE]))
        assert await alice.close_code() == 1007
    server.terminate()

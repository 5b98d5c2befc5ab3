"""The links of a node: which nodes are up, the order of what is said, and the end of a link."""

import asyncio
from typing import Any, Callable, Optional, Union

import msgspec
import pytest

from chat_actors.cluster.links import Links, Mesh
from chat_actors.cluster.wire import Count, Hello, Item, Say, opened, seal, sealed
from tests.support.fakes import POISON, in_clean_loop, log_lines, settle


class FakeMesh(Mesh):
    """Records what is sent. ``full``: nodes that nothing more can wait for, until they are forgotten."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.forgotten: list[str] = []
        self.full: set[str] = set()
        self.closed = False
        self.mail: Callable[[bytes], None]
        self.seen: Callable[[str, bool], None]

    def open(self, me: str, mail: Callable[[bytes], None], seen: Callable[[str, bool], None]) -> None:
        self.mail, self.seen = mail, seen

    def send(self, node: str, data: bytes) -> bool:
        if node in self.full:
            return False
        self.sent.append((node, data))
        return True

    def forget(self, node: str) -> None:
        self.full.discard(node)
        self.forgotten.append(node)

    async def close(self) -> None:
        self.closed = True


class Peer:
    """Another node. The test says its words."""

    def __init__(self, end: "Here", name: str, number: int) -> None:
        self.end, self.name, self.number = end, name, number

    @property
    def heard(self) -> list[tuple[int, list[Item]]]:
        """The envelopes sent to this node since the last time: the number of it that they are for, and their items."""
        sent, self.end.mesh.sent = self.end.mesh.sent, []
        mine = [opened(data) for node, data in sent if node == self.name]
        self.end.mesh.sent = [one for one in sent if one[0] != self.name]
        if mine:
            self.theirs = mine[-1].mine
        return [(one.yours, [*one.items]) for one in mine]

    theirs = 0

    def says(self, *items: Item, mine: Optional[int] = None, yours: Optional[int] = None) -> None:
        number = self.number if mine is None else mine
        to = self.theirs if yours is None else yours
        self.end.mesh.mail(seal(self.name, number, to, [sealed(item) for item in items]))

    def meets(self) -> None:
        """Exchange what it takes for the link to be up."""
        self.end.mesh.seen(self.name, True)
        assert self.heard == [(0, [Hello()])]
        self.says(Hello())
        assert self.heard == [(self.number, [Hello()])]


class Here:
    """A node with its links, and what they tell it."""

    def __init__(self) -> None:
        self.mesh = FakeMesh()
        self.told: list[Union[str, tuple[str, Item]]] = []
        self.taken: Callable[[str, Item], Any] = lambda node, item: None
        self.links = Links(self.mesh, self.up, self.down, self.take)
        self.links.open()
        assert self.told == [f"up {self.links.me}"]
        self.told.clear()

    def up(self, node: str) -> None:
        self.told.append(f"up {node}")

    def down(self, node: str) -> None:
        self.told.append(f"down {node}")

    def take(self, node: str, item: Item) -> None:
        self.told.append((node, item))
        self.taken(node, item)

    def meet(self, name: str = "peer", number: int = 5) -> Peer:
        peer = Peer(self, name, number)
        peer.meets()
        assert self.told == [f"up {name}"]
        self.told.clear()
        return peer


# How nodes meet.


@in_clean_loop
async def test_a_node_is_up_when_both_have_heard_the_hello_of_the_other() -> None:
    here = Here()
    peer = Peer(here, "peer", 5)
    here.mesh.seen("peer", True)
    assert peer.heard == [(0, [Hello()])] and here.told == []
    peer.says(Hello(), yours=0)
    assert peer.heard == [(5, [Hello()])] and here.told == []
    peer.says(Hello(), Count(1))
    assert here.told == ["up peer", ("peer", Count(1))] and peer.heard == []


@in_clean_loop
async def test_the_answer_to_a_hello_is_enough() -> None:
    here = Here()
    peer = Peer(here, "peer", 5)
    here.mesh.seen("peer", True)
    assert peer.heard == [(0, [Hello()])]
    peer.says(Hello())
    assert peer.heard == [(5, [Hello()])] and here.told == ["up peer"]


@in_clean_loop
async def test_a_node_that_was_not_seen_yet_is_not_heard() -> None:
    here = Here()
    peer = Peer(here, "peer", 5)
    peer.says(Hello(), Count(1))
    assert peer.heard == [] and here.told == []
    peer.meets()
    assert here.told == ["up peer"]


@in_clean_loop
async def test_a_node_that_is_seen_again_is_met_once() -> None:
    here = Here()
    peer = here.meet()
    here.mesh.seen("peer", True)
    assert peer.heard == [] and here.told == []


@in_clean_loop
async def test_a_node_does_not_meet_itself() -> None:
    here = Here()
    here.mesh.seen(here.links.me, True)
    here.mesh.seen(here.links.me, False)
    assert here.mesh.sent == [] and here.told == [] and here.mesh.forgotten == []


@in_clean_loop
async def test_two_nodes_with_links_of_both_find_each_other_whoever_is_first() -> None:
    for first in (0, 1):
        ends = [Here(), Here()]
        names = [end.links.me for end in ends]
        for one, other in ((first, 1 - first), (1 - first, first)):
            ends[one].mesh.seen(names[other], True)
            for _ in range(5):
                for sender, receiver in ((0, 1), (1, 0)):
                    sent, ends[sender].mesh.sent = ends[sender].mesh.sent, []
                    for node, data in sent:
                        assert node == names[receiver]
                        ends[receiver].mesh.mail(data)
        assert [end.told for end in ends] == [[f"up {names[1]}"], [f"up {names[0]}"]]


# What is said.


@in_clean_loop
async def test_what_is_said_in_one_turn_of_the_loop_goes_in_one_envelope_in_order() -> None:
    here = Here()
    peer, other = here.meet(), here.meet("other", 6)
    here.links.send("peer", Count(1))
    here.links.send("other", Count(2))
    here.links.send("peer", Count(3))
    assert here.mesh.sent == []
    await settle()
    assert peer.heard == [(5, [Count(1), Count(3)])] and other.heard == [(6, [Count(2)])]
    here.links.send("peer", Count(4))
    here.links.flush()
    assert peer.heard == [(5, [Count(4)])]
    await settle()
    assert peer.heard == []


@in_clean_loop
async def test_nothing_is_sent_to_a_node_that_is_not_up() -> None:
    here = Here()
    here.links.send("nobody", Count(1))
    here.mesh.seen("peer", True)
    peer = Peer(here, "peer", 5)
    assert peer.heard == [(0, [Hello()])]
    here.links.send("peer", Count(2))  # the link is not up yet
    await settle()
    assert here.mesh.sent == []
    peer.says(Hello())
    assert peer.heard == [(5, [Hello()])]


@in_clean_loop
async def test_what_a_node_says_to_itself_comes_in_order_and_later() -> None:
    here = Here()
    me = here.links.me

    def answer(node: str, item: Item) -> None:
        if item == Count(1):
            here.links.send(me, Count(3))

    here.taken = answer
    for number in (1, 2):
        here.links.send(me, Count(number))
    assert here.told == []
    await settle()
    assert here.told == [(me, Count(1)), (me, Count(2)), (me, Count(3))] and here.mesh.sent == []


@in_clean_loop
async def test_an_item_whose_handling_raises_costs_only_itself() -> None:
    here = Here()
    peer = here.meet()

    def fail(node: str, item: Item) -> None:
        if item == Count(2):
            raise RuntimeError("a bug")

    here.taken = fail
    with log_lines() as lines:
        peer.says(Count(1), Count(2), Count(3))
        for number in (1, 2, 3):
            here.links.send(here.links.me, Count(number))
        await settle()
    assert [one[1] for one in here.told if isinstance(one, tuple)] == [Count(1), Count(2), Count(3)] * 2
    logged = [line for line in lines if "item skipped" in line]
    assert len(logged) == 2 and all("RuntimeError: a bug" in line and "'item': 'Count'" in line for line in logged)
    assert "'node': 'peer'" in logged[0]
    peer.says(Count(4))
    assert here.told[-1] == ("peer", Count(4))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"not an envelope",
        msgspec.msgpack.encode(["peer", 5, "no number", []]),
        msgspec.msgpack.encode(["peer", 5, 0, [["NoSuchItem"]]]),
        msgspec.msgpack.encode(["peer", 5, 0, [["Count", "one"]]]),
        msgspec.msgpack.encode(["peer", 5]),
        msgspec.msgpack.encode(["....", 5, 0, []]).replace(b"....", b"\xff\xfe\xfd\xfc"),
        b"\x91" * 100_000,
    ],
    ids=["empty", "broken", "text", "type", "kind", "field", "short", "no UTF-8", "deep"],
)
def test_mail_that_cannot_be_read_is_logged_and_dropped_and_harms_nothing(data: bytes) -> None:
    @in_clean_loop
    async def run() -> None:
        here = Here()
        peer = here.meet()
        with log_lines() as lines:
            here.mesh.mail(data)
        assert ["mail refused: unreadable" in line and f"'bytes': {len(data)}" in line for line in lines] == [True]
        assert here.told == [] and peer.heard == []
        peer.says(Count(1))
        assert here.told == [("peer", Count(1))]

    run()


@in_clean_loop
async def test_an_item_that_cannot_be_said_is_not_said_and_the_others_are() -> None:
    here = Here()
    peer = here.meet()
    here.links.send("peer", Count(1))
    with pytest.raises(UnicodeEncodeError):
        here.links.send("peer", Say("sports", 1, [(1, POISON, None)]))
    here.links.send("peer", Count(2))
    await settle()
    assert peer.heard == [(5, [Count(1), Count(2)])]


# How a link ends.


@in_clean_loop
async def test_a_node_that_is_gone_is_lost_and_what_waits_for_it_is_dropped() -> None:
    here = Here()
    peer = here.meet()
    here.links.send("peer", Count(1))
    here.mesh.seen("peer", False)
    assert here.told == ["down peer"] and here.mesh.forgotten == ["peer"]
    peer.says(Count(2))
    await settle()
    assert here.told == ["down peer"] and peer.heard == []
    here.mesh.seen("peer", False)
    assert here.told == ["down peer"]


@in_clean_loop
async def test_who_was_never_up_does_not_go_down() -> None:
    here = Here()
    here.mesh.seen("peer", True)
    here.mesh.seen("peer", False)
    assert here.told == []


@in_clean_loop
async def test_mail_of_a_time_that_is_over_is_dropped() -> None:
    here = Here()
    peer = here.meet()
    before = peer.theirs
    here.mesh.seen("peer", False)
    here.mesh.seen("peer", True)
    assert peer.heard == [(0, [Hello()])] and here.told == ["down peer"] and peer.theirs != before
    peer.says(Count(1), yours=before)
    assert peer.heard == [(5, [Hello()])] and here.told == ["down peer"]
    peer.says(Count(2), mine=6)
    assert here.told == ["down peer", "up peer", ("peer", Count(2))]


@in_clean_loop
async def test_mail_of_an_old_time_does_not_harm_a_link_that_is_up() -> None:
    here = Here()
    peer = here.meet()
    peer.says(Count(1), yours=peer.theirs + 1)
    assert here.told == [] and peer.heard == []
    peer.says(Count(2))
    assert here.told == [("peer", Count(2))]


@in_clean_loop
async def test_a_node_that_has_lost_this_one_is_lost_and_met_again() -> None:
    here = Here()
    peer = here.meet()
    here.links.send("peer", Count(1))  # for the link that ends: it must not arrive on the next one
    peer.says(Hello(), mine=9, yours=0)
    assert here.told == ["down peer"] and peer.heard == [(9, [Hello()])]
    await settle()
    assert peer.heard == []
    peer.says(Hello(), Count(2), mine=9)
    assert here.told == ["down peer", "up peer", ("peer", Count(2))]
    here.links.send("peer", Count(3))
    await settle()
    assert peer.heard == [(9, [Count(3)])]


@in_clean_loop
async def test_a_node_that_met_this_one_anew_is_up_again_with_its_first_item() -> None:
    here = Here()
    peer = here.meet()
    peer.says(Count(1), mine=9)
    assert here.told == ["down peer", "up peer", ("peer", Count(1))] and peer.heard == [(9, [Hello()])]


@in_clean_loop
async def test_nothing_of_an_envelope_is_taken_behind_the_item_that_lost_its_sender() -> None:
    here = Here()
    peer = here.meet()
    here.taken = lambda node, item: item == Count(1) and here.mesh.seen("peer", False)
    peer.says(Count(1), Count(2))
    assert here.told == [("peer", Count(1)), "down peer"]


@in_clean_loop
async def test_a_node_for_which_too_much_waits_is_given_up_and_met_again() -> None:
    here = Here()
    peer, other = here.meet(), here.meet("other", 6)
    here.mesh.full.add("peer")
    here.links.send("peer", Count(1))
    here.links.send("other", Count(2))
    with log_lines() as lines:
        await settle()
    assert here.told == ["down peer"] and here.mesh.forgotten == ["peer"]
    assert sum("send queue full" in line and "'node': 'peer'" in line for line in lines) == 1
    before = peer.theirs
    assert peer.heard == [(0, [Hello()])] and peer.theirs != before
    assert other.heard == [(6, [Count(2)])]
    peer.says(Hello(), mine=7)
    assert here.told == ["down peer", "up peer"] and peer.heard == [(7, [Hello()])]


@in_clean_loop
async def test_a_node_to_which_not_even_a_hello_can_be_said_is_met_anew() -> None:
    here = Here()
    here.mesh.seen("peer", True)
    peer = Peer(here, "peer", 5)
    first = peer.heard
    here.mesh.full.add("peer")
    old = peer.theirs
    peer.says(Hello(), Count(1))  # this would be enough for a link to be up
    assert here.told == [] and first == peer.heard == [(0, [Hello()])] and peer.theirs != old


@in_clean_loop
async def test_to_begin_anew_is_to_lose_all_and_to_meet_them_again() -> None:
    here = Here()
    peer, other = here.meet(), here.meet("other", 6)
    old = peer.theirs
    here.links.send("peer", Count(1))
    here.links.begin_anew()
    assert here.told == ["down peer", "down other"]
    await settle()
    assert peer.heard == other.heard == [(0, [Hello()])] and peer.theirs != old
    peer.says(Count(2), yours=old)
    assert here.told == ["down peer", "down other"]
    peer.says(Hello(), mine=7)
    other.says(Hello(), mine=8)
    assert here.told[2:] == ["up peer", "up other"]


# The end.


@in_clean_loop
async def test_all_that_waits_is_sent_at_the_end_and_nothing_after_it() -> None:
    here = Here()
    peer = here.meet()
    me = here.links.me
    here.taken = lambda node, item: here.links.send("peer", Count(3))  # nothing sends it any more
    here.links.send("peer", Count(1))
    here.links.send(me, Count(2))
    await here.links.close()
    assert here.mesh.closed and peer.heard == [(5, [Count(1)])] and here.told == [(me, Count(2))]
    await settle()
    peer.says(Count(4))
    here.links.send("peer", Count(5))
    await settle()
    assert peer.heard == [] and here.told == [(me, Count(2))]


@in_clean_loop
async def test_a_node_without_others_ends_with_nothing_to_say() -> None:
    here = Here()
    await here.links.close()
    assert here.mesh.closed and here.mesh.sent == []
    before = asyncio.all_tasks()
    await here.links.close()
    assert asyncio.all_tasks() == before

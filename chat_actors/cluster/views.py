"""Whose a topic is, for those who see the same nodes. No asyncio."""

from hashlib import blake2b


def highest(topic: str, nodes: list[str]) -> str:
    """The node with the highest hash for that topic (rendezvous hashing); empty where there is none."""
    return max(nodes, key=lambda node: blake2b(f"{node} {topic}".encode(), digest_size=8).digest(), default="")

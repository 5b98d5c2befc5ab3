"""What zenoh is told: its own configuration file where there is one, and above it what the mesh relies on."""

import errno
import json
import socket
from pathlib import Path
from typing import Any

import zenoh

LEASE_MS = 3000  # a node that says nothing for so long is dead


def configured(path: str, listen: list[str], connect: list[str]) -> Any:
    """What a session is to be: what stands in that file, if any, and what the mesh relies on. Raises OSError."""
    config = _read(path)
    for key, value in {
        "mode": "peer",
        "id": None,  # each session has another one
        "listen/endpoints": listen,
        "listen/timeout_ms": 0,
        "listen/exit_on_failure": True,
        "connect/endpoints": connect,
        "connect/timeout_ms": 0,
        "connect/exit_on_failure": True,
        "open/return_conditions/connect_scouted": False,  # it waits for half a second
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "transport/link/tx/lease": LEASE_MS,
        "transport/shared_memory/enabled": False,  # it is used again before a node that was stopped has read it
        "transport/unicast/open_timeout": LEASE_MS,
    }.items():
        config.insert_json5(key, json.dumps(value))
    return config


def _read(path: str) -> Any:
    """What is in zenoh's configuration file; its defaults where there is none. Raises OSError."""
    if not path:
        return zenoh.Config()
    Path(path).read_bytes()  # so that a file that cannot be read is named
    try:
        return zenoh.Config.from_file(path)
    except zenoh.ZError as wrong:
        raise OSError(f"{path} is no configuration of zenoh's: {wrong}") from None


def is_free(endpoint: str) -> bool:
    """Whether this process may listen there, as far as can be seen: zenoh itself would take seconds to say no."""
    protocol, _, address = endpoint.partition("/")
    host, _, port = address.partition("#")[0].rpartition(":")
    if protocol not in ("tcp", "tls", "ws"):
        return True
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # no such host, or nothing that could be the name of one
        return False
    for family, kind, number, _, where in addresses:
        try:
            with socket.socket(family, kind, number) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                probe.listen(1)
                return True
        except OSError as wrong:
            if wrong.errno == errno.EADDRINUSE:
                return False
    return False  # none of its addresses is of this machine

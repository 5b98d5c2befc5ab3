"""Settings of an application, read from ``CHAT_*`` environment variables. Every limit and its default live here."""

import re
import sys
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from chat_actors.origins import parse_host, parse_origin

PREFIX = "CHAT_"
TRUSTED = "FORWARDED_ALLOW_IPS"  # uvicorn's variable: the proxies whose X-Forwarded-* headers it trusts


class Settings(BaseSettings):
    """Settings, immutable. The variable ``CHAT_X`` sets the field ``x``.

    The descriptions are shown by ``chat-actors --help`` and, for limits that a client can reach, by ``asyncapi``.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on (python -m chat_actors)")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on (python -m chat_actors)")
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="lowest level of log lines"
    )
    log_json: bool = Field(False, description="whether each log line is a JSON object")
    message_ttl: float = Field(30.0, gt=0, le=86400, description="length of the window: seconds that a message is kept")
    message_chars: int = Field(4096, ge=1, le=65536, description="longest message, in characters")
    frame_bytes: int = Field(65536, ge=1024, le=1 << 20, description="longest frame from a client, in bytes")
    join_timeout: float = Field(10.0, gt=0, description="seconds until a connection must have joined")
    refused_frames: int = Field(20, ge=1, description="refused frames in a row after which a connection is closed")
    rate_limit: float = Field(20.0, ge=0, description="frames per second from one connection; 0: no limit")
    rate_burst: int = Field(100, ge=1, description="frames from one connection before its rate limit applies")
    connections: int = Field(10_000, ge=1, description="open connections, at most")
    connections_per_address: int = Field(0, ge=0, description="open connections from one address, at most; 0: no limit")
    topics: int = Field(10_000, ge=1, description="active topics, at most")
    topic_members: int = Field(0, ge=0, description="members of one topic, at most; 0: no limit")
    presence_members: int = Field(
        1000,
        ge=0,
        description="members of a topic up to which `joined` and `presence` name them; above, they count them",
    )
    allowed_origins: str = Field(
        "", description="origins of web pages that may connect, comma-separated, besides the server's own; *: all"
    )
    allowed_hosts: str = Field(
        "",
        description="names that a Host header may give, comma-separated, besides this machine's own; *: all; "
        "empty: all, except for direct requests on a loopback address",
    )
    require_origin: bool = Field(
        False, description="whether a handshake without an Origin header, as of a program, is refused"
    )
    token: str = Field("", description="shared secret that a client must give; empty: none")
    topics_page: bool = Field(True, description="whether GET /topics lists the active topics")
    history_messages: int = Field(10_000, ge=0, description="stored messages of one topic, at most")
    history_bytes: int = Field(8 << 20, ge=0, description="bytes of the stored messages of one topic, at most")
    outbox_bytes: int = Field(
        1 << 20, ge=1024, description="bytes that wait for one reader, at most; beyond it the reader is aborted"
    )
    stall_timeout: float = Field(10.0, gt=0, description="seconds without progress after which a reader is aborted")
    ping_interval: float = Field(
        20.0, gt=0, description="seconds of silence before a peer is pinged, and then until it is aborted"
    )
    idle_timeout: float = Field(
        75.0, ge=0, description="seconds of silence before a peer is closed whose host cannot ping it; 0: never"
    )
    cluster: str = Field(
        "", description="endpoints of the cluster's nodes, comma-separated, such as tcp/host:7447; empty: no cluster"
    )
    cluster_config: str = Field("", description="path of a zenoh configuration file, for TLS between nodes")
    cluster_quorum: bool = Field(
        False, description="whether a node that sees fewer than half of the nodes refuses all clients"
    )
    shutdown_timeout: int = Field(10, ge=3, description="seconds that a shutdown may take (python -m chat_actors)")
    proxy_headers: bool = Field(
        False, description="whether X-Forwarded-* headers of a proxy are trusted (python -m chat_actors)"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        """Drop what a file leaves around a value: white space, newlines, a byte order mark."""
        return value.lstrip("\ufeff").strip() if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for entry in entries(value):
            if entry != "*" and parse_origin(without_slash(entry)) is None:
                wanted = "Input should be origins such as https://chat.example, or *: {entry} is none"
                raise PydanticCustomError("origins", wanted, {"entry": entry})
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: str) -> str:
        for entry in entries(value):
            host = parse_host(entry[2:] if entry.startswith("*.") else entry)
            if entry != "*" and (host is None or host.port is not None):
                wanted = "Input should be names such as chat.example, *.chat.example or *, no port: {entry} is none"
                raise PydanticCustomError("hosts", wanted, {"entry": entry})
        return value

    @property
    def endpoints(self) -> list[str]:
        """The endpoints of the cluster's nodes; empty if there is no cluster."""
        return entries(self.cluster)

    @field_validator("cluster")
    @classmethod
    def _are_endpoints(cls, value: str) -> str:
        for endpoint in entries(value):
            if not re.fullmatch(r"[a-z]+/[^\s/]+:\d+(#\S*)?", endpoint):
                raise PydanticCustomError("endpoints", "Input should be endpoints such as tcp/10.0.0.1:7447")
        return value

    def changed_limits(self) -> dict[str, float]:
        """Return the limits that differ from their defaults, by variable. Texts, and so the token, are left out."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "port"}
        return {
            variable(name): value
            for name, value in values.items()
            if type(value) in (int, float) and value != type(self).model_fields[name].default
        }


def entries(value: str) -> list[str]:
    """Return the entries of a list, separated by commas or white space; empty ones do not count."""
    return value.replace(",", " ").split()


def without_slash(url: str) -> str:
    """Return the URL of an origin's root without its slash: both are one place (RFC 3986, section 6.2.3)."""
    return url[:-1] if url.endswith("/") else url


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def load_settings() -> Settings:
    """Return the settings of this process.

    Raises SystemExit (status 2) if a variable has a wrong value, after a line on stderr for each such variable.
    """
    try:
        return Settings.model_validate({})
    except ValidationError as wrong:
        for error in wrong.errors():
            field = "_".join(str(part) for part in error["loc"])
            # One write for each line: several workers may write at the same time.
            sys.stderr.write(f"{variable(field)}={' '.join(str(error['input']).split())}: {error['msg']}.\n")
        sys.exit(2)

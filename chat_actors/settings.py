"""Every limit and its default, from ``CHAT_*`` environment variables. No limit is written down anywhere else."""

import re
import sys
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "CHAT_"


class Settings(BaseSettings):
    """A field ``x`` is set by the variable ``CHAT_X``; its description is its row in the README."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on (python -m chat_actors)")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on (python -m chat_actors)")
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="least level that is logged"
    )
    log_json: bool = Field(False, description="one JSON object for each log line")
    message_ttl: float = Field(30.0, gt=0, le=86400, description="seconds a message is kept")
    message_chars: int = Field(4096, ge=1, le=65536, description="longest message, in characters")
    frame_bytes: int = Field(65536, ge=1024, le=1 << 20, description="longest frame from a client, in bytes")
    join_timeout: float = Field(10.0, gt=0, description="seconds a connection may take to join")
    refused_frames: int = Field(20, ge=1, description="refused frames in a row that close a connection")
    rate_limit: float = Field(20.0, ge=0, description="frames a second one connection may send; 0: no limit")
    rate_burst: int = Field(100, ge=1, description="frames one connection may send at any speed")
    connections: int = Field(10_000, ge=1, description="connections at a time")
    connections_per_address: int = Field(0, ge=0, description="connections at a time from one address; 0: no limit")
    topics: int = Field(10_000, ge=1, description="active topics")
    topic_members: int = Field(0, ge=0, description="members of one topic; 0: no limit")
    allowed_origins: str = Field("", description="origins of web pages that may connect, besides the server's own")
    require_origin: bool = Field(False, description="refuse programs, which name no origin")
    token: str = Field("", description="shared secret that every connection must give; empty: none")
    topics_page: bool = Field(True, description="answer GET /topics")
    history_messages: int = Field(10_000, ge=0, description="messages a topic keeps, at most")
    history_bytes: int = Field(8 << 20, ge=0, description="bytes of messages a topic keeps, at most")
    outbox_bytes: int = Field(1 << 20, ge=1024, description="bytes that may wait for one reader")
    stall_timeout: float = Field(10.0, gt=0, description="seconds a reader may make no progress")
    cluster: str = Field(
        "", description="endpoints of the nodes of a cluster, such as tcp/host:7447; empty: no cluster"
    )
    cluster_config: str = Field("", description="zenoh's configuration file, for TLS between nodes")
    cluster_quorum: bool = Field(False, description="serve nobody while fewer than half of the nodes are seen")
    shutdown_timeout: int = Field(10, ge=3, description="seconds a shutdown may take (python -m chat_actors)")
    proxy_headers: bool = Field(False, description="trust X-Forwarded-* of a proxy (python -m chat_actors)")

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in filter(None, map(str.strip, value.split(","))):
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin, re.IGNORECASE):
                raise PydanticCustomError("origins", "Input should be origins such as https://chat.example, or *")
        return value

    @property
    def endpoints(self) -> list[str]:
        """Of the nodes of the cluster."""
        return [endpoint.strip() for endpoint in self.cluster.split(",") if endpoint.strip()]

    @field_validator("cluster")
    @classmethod
    def _are_endpoints(cls, value: str) -> str:
        for endpoint in filter(None, map(str.strip, value.split(","))):
            if not re.fullmatch(r"[a-z]+/[^\s/]+:\d+(#\S*)?", endpoint):
                raise PydanticCustomError("endpoints", "Input should be endpoints such as tcp/10.0.0.1:7447")
        return value

    def changed_limits(self) -> dict[str, float]:
        """The limits that are not the defaults, by variable."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "port"}
        return {
            variable(name): value
            for name, value in values.items()
            if type(value) in (int, float) and value != type(self).model_fields[name].default
        }


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def load_settings() -> Settings:
    """The settings of this process. A wrong value ends the program with a sentence for each wrong variable."""
    try:
        return Settings.model_validate({})
    except ValidationError as wrong:
        for error in wrong.errors():
            field = "_".join(str(part) for part in error["loc"])
            # In one write, for several workers say it at once.
            sys.stderr.write(f"{variable(field)}={error['input']!s}: {error['msg']}.\n")
        sys.exit(2)

"""Settings of an application, read from ``CHAT_*`` environment variables. Every limit and its default live here."""

import re
import sys
from typing import Any, Literal, Optional, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from chat_actors.origins import parse_host, parse_origin

PREFIX = "CHAT_"
DAY = 86400  # seconds
TRUSTED = "FORWARDED_ALLOW_IPS"  # uvicorn's variable: the proxies whose X-Forwarded-* headers it trusts


class Environment(EnvSettingsSource):
    """Environment variables, without those that an orchestrator sets for its own purposes.

    Beside a Kubernetes Service or a Docker link named ``chat`` a container has ``CHAT_PORT=tcp://10.0.0.1:80``. Of the
    names of such variables only those in ``_PORT`` can be names of settings. A line on stderr says what is ignored.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        value = bare(value or "")
        if f"_{field_name}".endswith("_port") and re.match("[a-z]+://", value):
            why = "ignored, an address of Kubernetes or Docker is no port"
            sys.stderr.write(f"{variable(field_name)}={value}: {why}.\n")
            value = ""
        return value or None, key, is_complex  # None: not set


class Settings(BaseSettings):
    """Settings of an application, immutable. The variable ``CHAT_X`` sets the field ``x``; a blank one sets nothing.

    The descriptions are shown by ``chat-actors --help`` and, for limits that a client can reach, by ``asyncapi``.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, allow_inf_nan=False)

    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="lowest level of log lines"
    )
    log_json: bool = Field(False, description="whether each log line is a JSON object")
    message_ttl: float = Field(30.0, gt=0, le=DAY, description="length of the window: seconds that a message is kept")
    message_chars: int = Field(4096, ge=1, le=65536, description="longest message, in characters")
    frame_bytes: int = Field(65536, ge=1024, le=1 << 20, description="longest frame from a client, in bytes")
    join_timeout: float = Field(10.0, gt=0, le=DAY, description="seconds until a connection must have joined")
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
    stall_timeout: float = Field(
        10.0, gt=0, le=DAY, description="seconds without progress after which a reader is aborted"
    )
    ping_interval: float = Field(
        20.0, gt=0, le=DAY, description="seconds of silence before a peer is pinged, and then until it is aborted"
    )
    idle_timeout: float = Field(
        75.0, ge=0, le=DAY, description="seconds of silence before a peer is closed whose host cannot ping it; 0: never"
    )
    cluster: str = Field(
        "", description="endpoints of the cluster's nodes, comma-separated, such as tcp/host:7447; empty: no cluster"
    )
    cluster_config: str = Field("", description="path of a zenoh configuration file, for TLS between nodes")
    cluster_quorum: bool = Field(
        False, description="whether a node that sees fewer than half of the nodes refuses all clients"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the arguments, then the environment, and nothing else."""
        return init_settings, Environment(settings_cls)

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: Any) -> Any:
        return bare(value) if isinstance(value, str) else value

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
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            variable(name): value
            for name, value in values.items()
            if type(value) in (int, float) and value != type(self).model_fields[name].default
        }


class CommandSettings(Settings):
    """Settings of ``python -m chat_actors``: those of the application, and those that uvicorn gets from them.

    Any other host has options of its own for these, and reads none of their variables.
    """

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: any free one")
    workers: int = Field(1, ge=1, le=64, description="processes that share the topics, each for a core of the CPU")
    shutdown_timeout: int = Field(10, ge=3, description="seconds that a shutdown may take")
    proxy_headers: bool = Field(False, description="whether X-Forwarded-* headers of a proxy are trusted")


AnySettings = TypeVar("AnySettings", bound=Settings)


def entries(value: str) -> list[str]:
    """Return the entries of a list, separated by commas or white space; empty ones do not count."""
    return value.replace(",", " ").split()


def bare(value: str) -> str:
    """Return the value without what a file leaves around it: white space, newlines, a byte order mark."""
    return value.lstrip("\ufeff").strip()


def without_slash(url: str) -> str:
    """Return the URL of an origin's root without its slash: both are one place (RFC 3986, section 6.2.3)."""
    return url[:-1] if url.endswith("/") else url


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def load_settings(kind: type[AnySettings], given: Optional[dict[str, str]] = None) -> AnySettings:
    """Return the settings of this process. Values that are ``given``, by field, come before the environment.

    Raises SystemExit (status 2) if a value is wrong, after a line on stderr for each such variable.
    """
    try:
        return kind.model_validate(given or {})
    except ValidationError as wrong:
        for error in wrong.errors():
            field = "_".join(str(part) for part in error["loc"])
            # One write for each line: several workers may write at the same time.
            sys.stderr.write(f"{variable(field)}={' '.join(str(error['input']).split())}: {error['msg']}.\n")
        sys.exit(2)

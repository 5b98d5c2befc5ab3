"""The log: the application's lines and uvicorn's in one format, through loguru to standard error.

No line may hold a message body or the query of a URL.
"""

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from loguru import logger

if TYPE_CHECKING:
    from loguru import Message

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")
_RUNNING = "Uvicorn running on %s://"  # start of uvicorn's line with the address (args: scheme, host, port)
_PRIVATE = "127.0.0.1", "::1", "localhost"


class _ToLoguru(logging.Handler):
    """Handler that passes records of the standard library, which uvicorn writes, to loguru."""

    def __init__(self, limits: Mapping[str, object], protected: bool) -> None:
        super().__init__()
        self._limits = limits
        self._protected = protected

    def emit(self, record: logging.LogRecord) -> None:
        level: Any = record.levelname
        if level not in ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            level = record.levelno
        if record.name == "uvicorn.access":  # args: client, method, path with query, HTTP version, status
            client, method, path, *rest = record.args  # type: ignore[misc]
            record.args = (client, method, str(path).partition("?")[0], *rest)
        if str(record.msg).startswith("Invalid UTF-8"):  # the peer's fault, but uvicorn logs it as an error
            logger.bind(code="invalid_utf8").info("frame refused")
            return
        message = record.getMessage().rstrip()
        if str(record.msg).startswith(_RUNNING):
            self._log_start(message, record.args[1])  # type: ignore[index]
        else:
            logger.opt(exception=record.exc_info).log(level, "{}", message)

    def _log_start(self, message: str, host: object) -> None:
        address = message.partition(" on ")[2].split()[0]
        logger.bind(page=f"{address}/", **self._limits).info("{}", message)
        if not self._protected and host not in _PRIVATE:
            logger.bind(host=host).warning("server unprotected: set CHAT_TOKEN or CHAT_ALLOWED_ORIGINS")


def _is_new(record: logging.LogRecord) -> bool:
    """Return False for uvicorn's lines about connections: the session logs those, without the query of the URL."""
    return "WebSocket" not in str(record.msg) and not str(record.msg).startswith("connection ")


def _write_text(message: "Message") -> None:
    record = message.record
    fields = "".join(f" {key}={value!r}" for key, value in record["extra"].items())
    line = f"{record['time']:YYYY-MM-DD HH:mm:ss.SSS} {record['level'].name: <8} {record['message']}{fields}\n"
    sys.stderr.write(line + message.strip("\n") + "\n" * (record["exception"] is not None))


def _write_json(message: "Message") -> None:
    record = message.record
    line = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        **record["extra"],
    }
    if record["exception"] is not None:
        line["exception"] = message.strip("\n")
    sys.stderr.write(msgspec.json.encode(line, enc_hook=str).decode() + "\n")


def configure_logging(level: str, as_json: bool, limits: Mapping[str, object] = {}, protected: bool = True) -> None:
    """Send every log line of this process to standard error, in one format. Replaces the handlers of uvicorn.

    ``level``: the lowest level that is written. ``as_json``: one JSON object for each line. ``limits``: values by
    variable, added to the line of the start. ``protected``: whether a token or a list of origins is set; if not, a
    start on a public address logs a warning.
    """
    logger.remove()
    # diagnose would write the values of variables, and so message bodies.
    # The format renders only the exception. The sinks write the rest themselves: so no markup needs escaping.
    logger.add(_write_json if as_json else _write_text, level=level, format="", diagnose=False, backtrace=False)
    handler = _ToLoguru(limits, protected)
    handler.addFilter(_is_new)
    access = logging.getLogger("uvicorn.access")
    access.propagate = access.hasHandlers()  # none if uvicorn's access log is off
    for name in _UVICORN:
        std = logging.getLogger(name)
        std.handlers = []
        std.setLevel(logging.INFO)  # below INFO the websockets package logs whole frames; ``level`` applies in loguru
    logging.getLogger("uvicorn.error").propagate = True
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.handlers, uvicorn.propagate = [handler], False

"""One format for every log line, ours and uvicorn's, through loguru to standard error. Never a message body."""

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from loguru import logger

if TYPE_CHECKING:
    from loguru import Message

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")
_RUNNING = "Uvicorn running on %s://"  # how its line begins that tells the address (scheme, host, port)
_PRIVATE = "127.0.0.1", "::1", "localhost"


class _ToLoguru(logging.Handler):
    """Hands the standard library's records, which uvicorn writes, to loguru."""

    def __init__(self, limits: Mapping[str, object], guarded: bool) -> None:
        super().__init__()
        self._limits = limits
        self._guarded = guarded

    def emit(self, record: logging.LogRecord) -> None:
        level: Any = record.levelname
        if level not in ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            level = record.levelno
        if record.name == "uvicorn.access":  # (client, method, path with its query, HTTP version, status)
            client, method, path, *rest = record.args  # type: ignore[misc]
            record.args = (client, method, str(path).partition("?")[0], *rest)
        if str(record.msg).startswith("Invalid UTF-8"):  # the peer's fault, which uvicorn reports as its own
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
        if not self._guarded and host not in _PRIVATE:
            logger.bind(host=host).warning("open to everyone: neither CHAT_TOKEN nor CHAT_ALLOWED_ORIGINS is set")


def _quiet(record: logging.LogRecord) -> bool:
    """Whether uvicorn's line says something new: each connection has its join and its leave, without the query."""
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


def configure_logging(level: str, as_json: bool, limits: Mapping[str, object] = {}, guarded: bool = True) -> None:
    """Send every log line of this process to standard error, in one format; ``level`` is the least that is shown.

    ``limits``: those that the line of the start is to name, by variable. Unless the server is ``guarded`` by a token
    or a list of origins, a start on a public address is warned of.
    """
    logger.remove()
    # diagnose would print the values of variables, message bodies among them.
    # The format leaves the exception alone; the sinks write the rest, for they need not escape any markup.
    logger.add(_write_json if as_json else _write_text, level=level, format="", diagnose=False, backtrace=False)
    handler = _ToLoguru(limits, guarded)
    handler.addFilter(_quiet)
    access = logging.getLogger("uvicorn.access")
    access.propagate = access.hasHandlers()  # it has none where the access log is off
    for name in _UVICORN:
        std = logging.getLogger(name)
        std.handlers = []
        std.setLevel(logging.INFO)  # below it the websockets package logs whole frames; ``level`` is for loguru
    logging.getLogger("uvicorn.error").propagate = True
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.handlers, uvicorn.propagate = [handler], False

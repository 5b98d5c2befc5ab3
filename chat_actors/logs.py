"""One format for every log line, ours and uvicorn's, through loguru to standard error. Never a message body."""

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import msgspec
from loguru import logger

if TYPE_CHECKING:
    from loguru import Record

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")


class _ToLoguru(logging.Handler):
    """Hands the standard library's records, which uvicorn writes, to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level: Any = record.levelname
        if level not in ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            level = record.levelno
        if record.name == "uvicorn.access":  # (client, method, path with its query, HTTP version, status)
            client, method, path, *rest = record.args  # type: ignore[misc]
            record.args = (client, method, str(path).partition("?")[0], *rest)
        logger.opt(exception=record.exc_info).log(level, "{}", record.getMessage().rstrip())


def _quiet(record: logging.LogRecord) -> bool:
    """Whether uvicorn's line says something new: each connection has its join and its leave, without the query."""
    return "WebSocket" not in str(record.msg) and not str(record.msg).startswith("connection ")


def _fields(record: "Record") -> dict[str, Any]:
    return {key: value for key, value in record["extra"].items() if not key.startswith("_")}


def _text_line(record: "Record") -> str:
    record["extra"]["_fields"] = "".join(f" {key}={value!r}" for key, value in _fields(record).items())
    return "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <8} {message}{extra[_fields]}\n{exception}"


def _json_line(record: "Record") -> str:
    exception = record["exception"]
    line = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "message": record["message"],
        **_fields(record),
    }
    if exception is not None:
        line["exception"] = "".join(traceback.format_exception(*exception))  # repr() of some hold what they failed on
    record["extra"]["_line"] = msgspec.json.encode(line).decode()
    return "{extra[_line]}\n"


def configure_logging(level: str, as_json: bool) -> None:
    """Send every log line of this process to standard error, in one format; ``level`` is the least that is shown."""
    logger.remove()
    # diagnose would print the values of variables, message bodies among them.
    logger.add(sys.stderr, level=level, format=_json_line if as_json else _text_line, diagnose=False, backtrace=False)
    handler = _ToLoguru()
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

"""The log: the application's lines, uvicorn's and Python's own in one format, through loguru to standard error.

No line may hold a message body or the query of a URL. No line may be written by the thread that logs it.
"""

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

import msgspec
from loguru import logger

from chat_actors.counters import Counters
from chat_actors.operations.log_writer import Line, LogWriter

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access")
_RUNNING = "Uvicorn running on %s://"  # start of uvicorn's line with the address (args: scheme, host, port)
_FINISHED = "Finished server process"  # start of uvicorn's last line; then a signal may end the process at once
_PRIVATE = "127.0.0.1", "::1", "localhost"


class _ToLoguru(logging.Handler):
    """Handler that passes records of the standard library, which uvicorn and asyncio write, to loguru."""

    def __init__(self, writer: LogWriter, limits: Mapping[str, object], protected: bool) -> None:
        super().__init__()
        self._writer = writer
        self._limits = limits
        self._protected = protected

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._pass_on(record)
            if str(record.msg).startswith(_FINISHED):
                self._writer.drain()
        except Exception:  # the arguments of the record do not fit its text
            self._writer.drop()

    def _pass_on(self, record: logging.LogRecord) -> None:
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


def _render_text(line: Line) -> str:
    time, level, message, fields, exception = line
    bound = "".join(f" {key}={value!r}" for key, value in fields.items())
    shown = "" if exception is None else "".join(exception.format())
    return f"{time.isoformat(' ', 'milliseconds')[:23]} {level: <8} {message}{bound}\n{shown}"


def _render_json(line: Line) -> str:
    time, level, message, fields, exception = line
    members = {"time": time.isoformat(), "level": level, "message": message, **fields}
    if exception is not None:
        members["exception"] = "".join(exception.format()).strip("\n")
    return msgspec.json.encode(members, enc_hook=str).decode() + "\n"


def _log_unraisable(failed: "UnraisableHookArgs") -> None:
    """Log an exception that nothing can catch, as of a destructor. Python would write it to standard error itself."""
    exception = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    logger.opt(exception=exception).error("exception ignored")


def configure_logging(
    level: str,
    as_json: bool,
    limits: Mapping[str, object] = {},
    protected: bool = True,
    counters: Optional[Counters] = None,
) -> None:
    """Send every log line of this process to standard error, in one format, by a thread of its own.

    Replaces the handlers of uvicorn. Records of other loggers that have no handler, warnings, and exceptions that
    nothing can catch become log lines as well.

    ``level``: the lowest level that is written. ``as_json``: one JSON object for each line. ``limits``: values by
    variable, added to the line of the start. ``protected``: whether a token or a list of origins is set; if not, a
    start on a public address logs a warning. ``counters``: where lines that are not written are counted.
    """
    logger.remove()
    writer = LogWriter(_render_json if as_json else _render_text, counters or Counters())
    logger.add(writer, level=level, filter=writer.take)
    handler = _ToLoguru(writer, limits, protected)
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
    root = logging.getLogger()
    root.handlers = [one for one in root.handlers if not isinstance(one, _ToLoguru)]
    if not root.handlers:  # then Python would write the records itself, as those of asyncio
        others = _ToLoguru(writer, limits, protected)
        others.setLevel(logging.WARNING)
        root.handlers = [others]
    logging.captureWarnings(True)
    sys.unraisablehook = _log_unraisable

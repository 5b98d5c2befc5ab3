"""The command line: ``python -m chat_actors`` and ``chat-actors`` run uvicorn with safe options."""

import argparse
import os
from collections.abc import Sequence
from typing import Optional

import uvicorn

from chat_actors.settings import TRUSTED, CommandSettings, bare, load_settings, variable
from chat_actors.version import __version__


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Serve until SIGINT or SIGTERM. Each option sets the environment variable of the same setting.

    Exits with 2 if an option or a variable is wrong, and prints a sentence for each wrong one.
    """
    parser = argparse.ArgumentParser(
        prog="chat-actors", description="A real-time chat server with topic rooms.", argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--version", action="version", version=f"chat_actors {__version__}")
    for name, field in CommandSettings.model_fields.items():
        about = f"{field.description} ({variable(name)}; default: {field.default if field.default != '' else 'none'})"
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="…", help=about)
    given = vars(parser.parse_args(argv))
    settings = load_settings(CommandSettings, given)
    os.environ.update({variable(name): value for name, value in given.items()})  # where the application looks
    # uvicorn reads this variable, and the line of the start names it. uvicorn 0.39 would not trust ::1 by default.
    trusted = bare(os.environ.get(TRUSTED, "")) or "127.0.0.1,::1"
    os.environ[TRUSTED] = trusted if settings.proxy_headers else ""
    uvicorn.run(
        "chat_actors.app:app",
        host=settings.host,
        port=settings.port,
        ws="websockets-sansio",  # the default of older uvicorn is deprecated
        timeout_graceful_shutdown=settings.shutdown_timeout,
        proxy_headers=settings.proxy_headers,
        access_log=False,
        log_config=None,  # the application configures logging
        workers=settings.workers,
    )


if __name__ == "__main__":
    main()

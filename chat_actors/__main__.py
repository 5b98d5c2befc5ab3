"""``python -m chat_actors`` and the command ``chat-actors``: uvicorn with the safe options set."""

import uvicorn
from loguru import logger

from chat_actors.settings import load_settings


def main() -> None:
    """Serve until a signal ends it."""
    settings = load_settings()
    if settings.host not in ("127.0.0.1", "::1", "localhost") and not (settings.token or settings.allowed_origins):
        logger.bind(host=settings.host).warning("open to everyone: neither CHAT_TOKEN nor CHAT_ALLOWED_ORIGINS is set")
    uvicorn.run(
        "chat_actors.app:app",
        host=settings.host,
        port=settings.port,
        ws_max_size=settings.frame_bytes,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,  # costs each connection memory and each frame time, and messages are short
        timeout_graceful_shutdown=settings.shutdown_timeout,
        proxy_headers=settings.proxy_headers,
        access_log=False,
        log_config=None,  # the application sets the logging
        workers=1,
    )


if __name__ == "__main__":
    main()

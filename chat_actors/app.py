"""The FastAPI application: ``uvicorn chat_actors.app:app``."""

from chat_actors.application import app, create_app

__all__ = ["app", "create_app"]

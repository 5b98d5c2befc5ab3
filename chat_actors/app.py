"""The server as a process of its own: ``uvicorn chat_actors.app:app``. No other module has side effects on import."""

import gc

from chat_actors.application import create_app
from chat_actors.operations.logs import configure_logging
from chat_actors.settings import load_settings
from chat_actors.workers import refuse_several_workers

refuse_several_workers()
# Connections and topics are many and live long: by default they would all be looked at again and again, at a third of
# the CPU where there are thousands of rooms. What is in cycles here is little, and can wait.
gc.set_threshold(50_000, 20, 50)
_settings = load_settings()
_guarded = bool(_settings.token or _settings.allowed_origins)
configure_logging(_settings.log_level, _settings.log_json, _settings.changed_limits(), _guarded)
app = create_app(_settings)

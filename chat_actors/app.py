"""The application of a server process: ``uvicorn chat_actors.app:app``.

All side effects of an import must live here: limits of handshakes and on descriptors, the garbage collector, settings
and logging.
"""

import gc
import os

from chat_actors.application import create_app
from chat_actors.connection.descriptors import fit_to_descriptors, log_shortage
from chat_actors.connection.handshake import allow_large_handshakes
from chat_actors.counters import Counters
from chat_actors.operations.logs import configure_logging
from chat_actors.settings import TRUSTED
from chat_actors.workers.opening import Workers, load_settings_or_end

allow_large_handshakes()
# Connections and topics are many and live long. By default the garbage collector scans all of them again and again:
# with thousands of topics that costs a third of the CPU. What is in cycles here dies young, with its handshake: so the
# youngest generation is collected often enough that this garbage stays small, and the others hardly ever.
gc.set_threshold(5_000, 100, 100)
_settings, _shortage = fit_to_descriptors(load_settings_or_end())
_protected = bool(_settings.token or _settings.allowed_origins)
_counters = Counters()
_trusted = os.environ.get(TRUSTED, "as the host is set; uvicorn's default: 127.0.0.1").strip() or "none"
_shown = {"trusted_proxies": _trusted, **_settings.changed_limits()}
configure_logging(_settings.log_level, _settings.log_json, _shown, _protected, _counters)
log_shortage(_shortage)
app = create_app(_settings, counters=_counters, workers=Workers(_settings))

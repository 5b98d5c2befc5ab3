"""The size of a handshake: limits of the ``websockets`` package, which uvicorn uses."""

import os
import sys

# Limits on the headers of a handshake in the ``websockets`` package, by the modules that read them. uvicorn's HTTP side
# takes larger ones first, such as a cookie of single sign-on; then these would leave the handshake without an answer.
_LIMITED = "websockets.http11", "websockets.legacy.http"
_LIMITS = {"MAX_LINE_LENGTH": 1 << 16, "MAX_NUM_HEADERS": 1024}


def allow_large_handshakes() -> None:
    """Raise the limits on headers to what uvicorn takes, unless the environment sets them (``WEBSOCKETS_MAX_…``).

    Changes the process, and the environment that its children inherit: only ``app`` may call it.
    """
    for name, limit in _LIMITS.items():
        variable = f"WEBSOCKETS_{name}"  # read when a module is imported
        if variable not in os.environ:
            os.environ[variable] = str(limit)
            for module in filter(None, map(sys.modules.get, _LIMITED)):
                setattr(module, name, limit)

"""The application in a process whose time a test puts forward: ``POST /ahead?seconds=30``, and so much has passed.

It needs asyncio's own event loop, which asks ``time.monotonic`` what time it is: uvicorn's ``--loop asyncio``.
"""

import time
from unittest.mock import patch

ahead = 0.0
_monotonic, _wall = time.monotonic, time.time
patch.object(time, "monotonic", lambda: _monotonic() + ahead).start()
patch.object(time, "time", lambda: _wall() + ahead).start()

from chat_actors.app import app  # noqa: E402  # which is to find the time as it is here


@app.post("/ahead")
async def put_forward(seconds: float) -> None:
    global ahead
    ahead += seconds

"""Random programs: a seed decides what happens to a supervisor, its topics and their sessions, and in which order.

Everything but the peers is the package's own. ``simulate`` runs the schedule of one seed and checks it.
"""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Optional
from unittest.mock import patch

import msgspec
from loguru import logger

from chat_actors.clock import Clock
from chat_actors.history import Limits
from chat_actors.inbox import open_inbox
from chat_actors.outbox import Outbox, StallWatch, open_outbox
from chat_actors.protocol import CloseCode, payloads
from chat_actors.session import Session
from chat_actors.settings import Settings
from chat_actors.supervisor import ListTopics, Supervisor, SupervisorEvent
from chat_actors.topic import Join, Topic, TopicEvent
from tests.simulation import check
from tests.simulation.check import Broken, Life
from tests.simulation.loop import ShuffledLoop, Stuck
from tests.simulation.peer import Peer

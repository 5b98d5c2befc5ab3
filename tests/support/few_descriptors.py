"""A program under a low limit on descriptors: ``python -m tests.support.few_descriptors 100 uvicorn …``."""

import os
import resource
import sys

limit, *command = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
os.execv(sys.executable, [sys.executable, "-m", *command])

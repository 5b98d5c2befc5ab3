"""A child process that takes one step whenever it is told to: for what the kernel decides between processes."""

import os
import pickle
import signal
import socket
import warnings
from contextlib import suppress
from types import TracebackType
from typing import Any, Callable, Optional


class Child:
    """Copy of this process, with all of its descriptors, which takes steps and tells what they return."""

    def __init__(self, *steps: Callable[[], Any]) -> None:
        own, far = socket.socketpair()
        with warnings.catch_warnings():  # of threads, which the child does not need
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process = os.fork()
        if not self.process:
            with suppress(BaseException):
                own.close()
                for step in steps:
                    if not far.recv(1):
                        break
                    far.sendall(pickle.dumps(step()))
                far.recv(1)
            os._exit(0)
        far.close()
        self._socket = own
        self._alive = True

    def step(self) -> Any:
        """Have it take its next step; return what that returns. Raises EOFError if the step failed."""
        self._socket.sendall(b"!")
        answer = self._socket.recv(1 << 16)
        if not answer:
            raise EOFError("the child has failed")
        return pickle.loads(answer)

    def kill(self) -> None:
        """End it at once, and wait for that. No-op after its end."""
        if self._alive:
            self._alive = False
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            self._socket.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.kill()

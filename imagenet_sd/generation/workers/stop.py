"""When to stop: a signal, or the end of the process that started this one. Knows nothing of shards."""

import os
import signal
import threading
from contextlib import contextmanager

from imagenet_sd.core.errors import Interrupted


class Stop:
    """Whether work should stop: a SIGTERM or SIGINT came, or the process that started this one is gone.

    The second signal of a kind stops at once, with KeyboardInterrupt.
    """

    def __init__(self, watch_parent: bool = False):
        self.signum = 0
        self._parent = os.getppid() if watch_parent else None

    @contextmanager
    def listening(self):
        """Catch the two signals inside the block; other threads than the main one leave them alone."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, signum: int, frame: object) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum

    def check(self) -> None:
        """Raise Interrupted when work should stop."""
        if self._parent is not None and os.getppid() != self._parent:
            self.signum = self.signum or signal.SIGTERM
        if self.signum:
            raise Interrupted(self.signum)

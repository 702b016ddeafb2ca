"""The thread that sends what the caller left lying: the end of a batch, and names that died since."""

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final

IDLE_SECONDS: Final = 0.05
"""How often dead names are looked for while nothing else happens; a destructor may not wake a thread."""


class Flusher:
    """Flushes a few milliseconds after a command was left in the batch, and now and then for drops.

    While batches go out by themselves it keeps away: the caller is streaming.
    """

    def __init__(self, flush: Callable[[], None], progress: Callable[[], int], delay_seconds: float) -> None:
        self._flush = flush
        self._progress = progress
        self._delay = delay_seconds
        self._awake = False
        self._stopped = False
        # Not Events: their lock is taken in Python, and Ctrl-C in between would leave it locked.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Started here: an interruption in `wake` could leave a thread that never starts.
        self._thread = threading.Thread(target=self._run, name="ptrtensor-flusher", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether this runs in its thread."""
        return threading.current_thread() is self._thread

    def wake(self) -> None:
        """Something was left in the batch."""
        if not self._awake:
            self._awake = True
            self._wakes.put(None)

    def stop(self) -> None:
        self._stopped = True
        self._wakes.put(None)
        self._ends.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped:
            before = self._progress()
            if not self._awake:
                wait(self._wakes, IDLE_SECONDS)
            if self._awake:
                wait(self._ends, self._delay)
            if self._progress() == before and not self._stopped:
                self._awake = False
                # Whatever it is: the caller meets it again, or `close` tells. Without this thread, all would lie.
                with contextlib.suppress(Exception):
                    self._flush()


def wait(signals: "queue.SimpleQueue[None]", seconds: float) -> None:
    with contextlib.suppress(queue.Empty):
        signals.get(timeout=seconds)

"""The thread that sends what the caller left lying: the end of a batch, and names that died since."""

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
        self._awake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Something was left in the batch."""
        if not self._awake.is_set():
            self._awake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ptrtensor-flusher", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._awake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            woken = self._awake.wait(IDLE_SECONDS)
            before = self._progress()
            if woken:
                self._stopped.wait(self._delay)
            if self._progress() == before:
                self._awake.clear()
                self._flush()

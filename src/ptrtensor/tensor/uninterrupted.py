"""Code that Ctrl-C must not fall into, because it is not ours and would be left half done."""

import _thread
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


def uninterrupted(act: Callable[[], R]) -> R:
    """Call `act` to its end whatever happens here; Ctrl-C ends the wait for it, not `act`.

    Python raises KeyboardInterrupt in the main thread only, so from there it runs in another.
    """
    if threading.current_thread() is not threading.main_thread():
        return act()
    results: list[R] = []
    ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:
            ends.put(error)
        else:
            ends.put(None)

    _thread.start_new_thread(run, ())
    error = ends.get()
    if error is not None:
        raise error
    return results[0]

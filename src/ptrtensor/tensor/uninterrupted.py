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
    errors: list[BaseException] = []
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run() -> None:
        nonlocal act
        try:
            results.append(act())
        except BaseException as error:
            errors.append(error)
        del act  # this thread may live on for a while: by then it holds nothing of the caller's
        ended.put(None)

    _thread.start_new_thread(run, ())
    ended.get()
    if errors:
        raise errors.pop()
    return results.pop()

"""Locks of the whole process."""

import os
import threading
from contextlib import AbstractContextManager


def process_lock() -> AbstractContextManager[bool]:
    """A lock that no forked child finds taken: a fork waits for it, and gives it back on both sides.

    Locks of a session need none of this, since a child cannot use its parent's sessions.
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock

"""Files that belong to one server at a time."""

import contextlib
import importlib
import os
from typing import Any

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None  # Windows has none


def claimed(file: int) -> bool:
    """Whether the file is this server's now, until `released`, or until this process ends; else it is another's.

    Where the system or the file system knows no locks, it is.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system that knows no locks
    return True


def released(file: int) -> None:
    """Also where a forked child has the file open, too."""
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)

"""How much memory this process may take; what needs more fails by itself. Linux only.

The system counts all that this process could write to, so also what is mapped from files to be copied on a write.
"""

import importlib
import re
import sys
import threading
from pathlib import Path
from typing import Any, Final

DATA: Final = re.compile(r"^VmData:\s+(\d+) kB$", re.MULTILINE)

resource: Any = importlib.import_module("resource") if sys.platform == "linux" else None  # Windows has none
changing: Final = threading.RLock()


def limit_memory(bytes_more: int) -> None:
    """So much beyond what it has now."""
    found = None if resource is None else DATA.search(Path("/proc/self/status").read_text())
    if found is not None:
        set_limit(int(found[1]) * 1024 + bytes_more)


def raise_limit(size: int) -> None:
    """By so much, for what is not to count, or lower it again; nothing where there is no limit."""
    if resource is not None:
        with changing:
            limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
            if limit != resource.RLIM_INFINITY:
                set_limit(limit + size)


def set_limit(size: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size if most == resource.RLIM_INFINITY else min(size, most), most))

"""What the system tells of a process, which is not asked itself: how long it has computed, and whether it can. Linux
only.
"""

import os
import sys
from pathlib import Path


def seconds_of(pid: int) -> float | None:
    """Of all its threads, also of a process that has ended and whose status nobody has asked for; None where the system
    does not say.
    """
    fields = fields_of(pid)
    if not fields:
        return None
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def is_stopped(pid: int) -> bool:
    """Whether it was stopped (SIGSTOP) and computes nothing until somebody lets it go on."""
    return fields_of(pid)[:1] == [b"T"]


def fields_of(pid: int) -> list[bytes]:
    """What the system says of a process, from its state on; nothing where it does not say."""
    if sys.platform != "linux":
        return []
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    return stat.rpartition(b")")[2].split()  # behind its name, in which anything may stand


def has_ended(pid: int) -> bool:
    """Whether this child has. Its status can still be asked for, and its time, too."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True

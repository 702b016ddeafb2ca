"""How long a process has computed, as the system tells: the process itself is not asked. Linux only."""

import os
import sys
from pathlib import Path


def seconds_of(pid: int) -> float | None:
    """Of all its threads, also of a process that has ended and whose status nobody has asked for; None where the system
    does not say.
    """
    if sys.platform != "linux":
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # behind its name, in which anything may stand
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def has_ended(pid: int) -> bool:
    """Whether this child has. Its status can still be asked for, and its time, too."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True

"""Where the caller waited: by its own line, how often and how long."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ptrtensor.client.callsite import CallSite

MAX_LINES: Final = 1000
"""Lines kept; of further ones those that waited longest ago make room."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What the waits at one line came to."""

    count: int = 0
    seconds: float = 0.0


class Waits:
    """Of one session."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: OrderedDict[CallSite, Wait] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, site: CallSite, seconds: float) -> None:
        with self._lock:
            self.count += 1
            before = self._lines.get(site, Wait())
            self._lines[site] = Wait(before.count + 1, before.seconds + seconds)
            self._lines.move_to_end(site)
            if len(self._lines) > MAX_LINES:
                self._lines.popitem(last=False)

    def by_line(self) -> dict[CallSite, Wait]:
        with self._lock:
            return dict(self._lines)

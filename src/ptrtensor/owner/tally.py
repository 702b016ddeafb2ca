"""Counting what somebody does again and again, so that it does not fill a log."""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

MOST_KINDS: Final = 100
"""That are told apart; the rest is one kind."""

SECONDS: Final = 3600.0
"""After which all is counted anew."""


@dataclass
class Counted:
    """Of one kind: how many there were, how many of them were told of, and what the last was like."""

    count: int = 0
    told: int = 0
    last: tuple[Any, ...] = ()


class Tally:
    """Each kind is told of at its first, second, fourth, eighth, ... time."""

    def __init__(self, tell: Callable[..., None]) -> None:
        """`tell` is called with what the last was like, and how many there were since the one that was told of."""
        self.count = 0
        self._tell = tell
        self._kinds: dict[Hashable, Counted] = {}
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def add(self, kind: Hashable, *like: Any) -> None:
        """It happened once more. Any thread may say so."""
        if time.monotonic() - self._began > SECONDS:
            self.tell()
        with self._lock:
            self.count += 1
            if kind not in self._kinds and len(self._kinds) >= MOST_KINDS:
                kind = None
            counted = self._kinds.setdefault(kind, Counted())
            counted.count += 1
            counted.last = like
            if counted.count.bit_count() != 1:
                return
            number = counted.count - counted.told
            counted.told = counted.count
        self._tell(*like, number)

    def tell(self) -> None:
        """Tell of all that was not told of, and begin anew."""
        with self._lock:
            kinds, self._kinds, self._began = list(self._kinds.values()), {}, time.monotonic()
        for counted in kinds:
            if counted.count > counted.told:
                self._tell(*counted.last, counted.count - counted.told)

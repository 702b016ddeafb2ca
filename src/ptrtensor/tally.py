"""Counting what somebody does again and again, so that it does not fill a log."""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

SECONDS: Final = 3600.0
"""After which all is counted anew."""


@dataclass
class Counted:
    """Of one kind: how many there were, how many of them were told of, and what the last was like."""

    count: int = 0
    told: int = 0
    last: tuple[Any, ...] = ()


class Tally:
    """The first so many, of whatever kind, are told of one by one; of more, each kind at its second, fourth, eighth,
    ... time.
    """

    def __init__(self, tell: Callable[..., None], *, singly: int = 0, kinds: int = 100) -> None:
        """`tell` is called with what the last was like, and how many there were since the one that was told of.
        So many `kinds` are told apart; the rest is one kind.
        """
        self.count = 0
        self._tell = tell
        self._singly = singly
        self._most_kinds = kinds
        self._recent = 0
        self._kinds: dict[Hashable, Counted] = {}
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def add(self, kind: Hashable, *like: Any, times: int = 1) -> None:
        """It happened once more, or so many times. Any thread may say so."""
        if time.monotonic() - self._began > SECONDS:
            self.tell()
        with self._lock:
            self.count += times
            self._recent += times
            if kind not in self._kinds and len(self._kinds) >= self._most_kinds:
                kind = None
            counted = self._kinds.setdefault(kind, Counted())
            doubled = (counted.count + times).bit_length() > counted.count.bit_length()
            counted.count += times
            counted.last = like
            if not doubled and self._recent > self._singly:
                return
            number = counted.count - counted.told
            counted.told = counted.count
        self._tell(*like, number)

    def tell(self) -> None:
        """Tell of all that was not told of, and begin anew."""
        with self._lock:
            kinds, self._kinds, self._began = list(self._kinds.values()), {}, time.monotonic()
            self._recent = 0
        for counted in kinds:
            if counted.count > counted.told:
                self._tell(*counted.last, counted.count - counted.told)

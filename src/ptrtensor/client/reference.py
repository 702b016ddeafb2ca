"""A reference: one name at one worker, and its end."""

from collections import deque
from typing import Protocol


class Holder(Protocol):
    """Where the names of dead references go."""

    drops: deque[int]


class Reference:
    """Held by every pointer that stands for the value. When the last one dies the worker forgets the name.

    Nothing is sent from here: the name leaves with a later batch.
    """

    __slots__ = ("_drop", "name", "spent")

    def __init__(self, holder: Holder, name: int) -> None:
        self.name = name
        self.spent: str | None = None
        """Set by get() and move(): what took the value away, and where."""
        self._drop = holder.drops.append

    def __del__(self) -> None:
        self._drop(self.name)

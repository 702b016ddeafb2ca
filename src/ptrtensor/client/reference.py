"""A reference: one name at one worker, and its end."""

import weakref
from collections import deque
from typing import Protocol


class Drop(weakref.ref["Reference"]):
    """What is left of a reference when it died: the name that the worker can forget."""

    __slots__ = ("name",)

    name: int


class Holder(Protocol):
    """Where the names of dead references go."""

    drops: deque[Drop]
    living: dict[int, Drop]


class Reference:
    """Held by every pointer that stands for the value. When the last one dies the worker forgets the name.

    Nothing is sent from here: the name leaves with a later batch. And nothing of Python runs, where Ctrl-C would be
    swallowed: the callback is the `append` of a deque.
    """

    __slots__ = ("__weakref__", "is_settled", "name", "spent")

    def __init__(self, holder: Holder, name: int) -> None:
        self.name = name
        self.is_settled = False
        """Whether the value is known to have memory of its own that no command so far has shared or written to."""
        self.spent: str | None = None
        """Set by get() and move(): what took the value away, and where."""
        drop = Drop(self, holder.drops.append)
        drop.name = name
        holder.living[name] = drop

    def __str__(self) -> str:
        return str(self.name)

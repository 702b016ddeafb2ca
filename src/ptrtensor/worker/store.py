"""What one session's worker holds: names and the values under them, and which of them are poisoned."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor

from ptrtensor._torch.memory import storage_key
from ptrtensor.wire.messages import Failure

Value = Tensor | bool | int | float

Labels = frozenset[str]
"""The private publications that a value was made of."""

PUBLIC: Final[Labels] = frozenset()


@dataclass(slots=True)
class Poison:
    """Why a name has no trustworthy value. `value` is kept where a failed operation did not touch it."""

    failure: Failure
    value: Value | None = None


@dataclass(slots=True)
class Note:
    tags: tuple[str, ...] = ()
    description: str = ""


@dataclass(slots=True)
class Outcome:
    """What a command left whose caller could not predict it, and will ask."""

    fresh: list[Value | None]
    written: list[Tensor]


@dataclass(slots=True)
class Store:
    """Names to values. A name is in `objects` or in `poisoned`, never in both."""

    objects: dict[int, Value] = field(default_factory=dict)
    poisoned: dict[int, Poison] = field(default_factory=dict)
    hidden: set[int] = field(default_factory=set)
    notes: dict[int, Note] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    labels: dict[int, Labels] = field(default_factory=dict)
    """Of what is private."""

    def drop(self, name: int) -> None:
        """Forget a name; unknown ones are none of our business [P5.6]."""
        self.objects.pop(name, None)
        self.poisoned.pop(name, None)
        self.hidden.discard(name)
        self.notes.pop(name, None)
        self.outcomes.pop(name, None)
        self.labels.pop(name, None)

    def clear(self) -> None:
        for names in (self.objects, self.poisoned, self.hidden, self.notes, self.outcomes, self.labels):
            names.clear()

    def poison_storages(self, names: set[int], failure: Failure, *, written: bool) -> None:
        """Poison these names and every alias of their storages [P8.2]; `written`: the values are partly overwritten."""
        tensors = (self.objects.get(name) for name in names)
        storages = {storage_key(tensor) for tensor in tensors if isinstance(tensor, Tensor)}
        for name, value in list(self.objects.items()):
            if isinstance(value, Tensor) and storage_key(value) in storages:
                del self.objects[name]
                self.poisoned[name] = Poison(failure, None if written else value)

    def label(self, name: int, labels: Labels) -> None:
        """It is private, for these too."""
        if labels:
            self.labels[name] = self.labels.get(name, PUBLIC) | labels

    def kept(self, name: int) -> Value | None:
        """Its value, also where that is held back."""
        value = self.objects.get(name)
        if value is None and name in self.poisoned:
            return self.poisoned[name].value
        return value

    def all_kept(self) -> Iterator[tuple[int, Value | None]]:
        """All of them."""
        yield from list(self.objects.items())
        yield from [(name, poison.value) for name, poison in self.poisoned.items()]

    def recover(self) -> None:
        """Give back what was poisoned only because an operation on it did not run [P8.4]."""
        for name, poison in list(self.poisoned.items()):
            if poison.value is not None:
                del self.poisoned[name]
                self.objects[name] = poison.value

    def listed(self) -> dict[int, Tensor]:
        return {
            name: value
            for name, value in list(self.objects.items())
            if isinstance(value, Tensor) and name not in self.hidden
        }

"""What one session's worker holds: names and the values under them, and which of them are poisoned."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from torch import Tensor

from ptrtensor._torch.memory import meta_of, offset_of, storage_key
from ptrtensor.wire.messages import Extent, Failure

Value = Tensor | bool | int | float

Labels = frozenset[str]
"""The private publications that a value was made of."""

PUBLIC: Final[Labels] = frozenset()


@dataclass(slots=True)
class Poison:
    """Why a name has no trustworthy value. `value` is kept where a failed operation did not touch it."""

    failure: Failure
    value: Value | None = None
    room: Tensor | None = None
    """The memory that a private value takes, or would take: nobody is to notice that it is not there."""


@dataclass(slots=True)
class Note:
    tags: tuple[str, ...] = ()
    description: str = ""


@dataclass(slots=True)
class Outcome:
    """What a command left whose caller could not predict it, and will ask: as it was then, for a later command may
    make a secret of it.
    """

    fresh: list[Extent | bool | int | float | None]
    written: list[Extent]


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
    origins: dict[int, str] = field(default_factory=dict)
    """The operation that made what is private, or was the last to write to it: for the owner."""
    families: dict[int, set[int]] = field(default_factory=dict)
    """Names that may share memory, so far as private operations had to do with them: also if those failed."""

    def drop(self, name: int) -> None:
        """Forget a name; unknown ones are none of our business [P5.6]."""
        self.objects.pop(name, None)
        self.poisoned.pop(name, None)
        self.hidden.discard(name)
        self.notes.pop(name, None)
        self.outcomes.pop(name, None)
        self.labels.pop(name, None)
        self.origins.pop(name, None)
        if self.families and (family := self.families.pop(name, None)):
            family.discard(name)

    def clear(self) -> None:
        kept = (self.objects, self.poisoned, self.hidden, self.notes, self.outcomes, self.labels, self.families)
        for names in (*kept, self.origins):
            names.clear()

    def poison_storages(self, names: set[int], failure: Failure, *, written: bool) -> None:
        """Poison these names and every alias of their storages [P8.2]; `written`: the values are partly overwritten."""
        tensors = (self.objects.get(name) for name in names)
        storages = {storage_key(tensor) for tensor in tensors if isinstance(tensor, Tensor)}
        for name, value in list(self.objects.items()):
            if isinstance(value, Tensor) and storage_key(value) in storages:
                del self.objects[name]
                held, room = (None, value) if written else (value, None)
                self.poisoned[name] = Poison(failure, held, room if name in self.labels else None)

    def label(self, name: int, labels: Labels) -> None:
        """It is private, for these too."""
        if labels:
            self.labels[name] = self.labels.get(name, PUBLIC) | labels

    def unite(self, names: Iterable[int]) -> None:
        """These may share memory from now on, and with them whatever may share it with one of them."""
        united = set(names)
        found = {id(family): family for name in united if (family := self.families.get(name)) is not None}
        largest = max(found.values(), key=len, default=set[int]())
        for family in (united, *found.values()):
            if family is not largest:
                largest |= family
                self.families.update(dict.fromkeys(family, largest))

    def is_known(self, name: int) -> bool:
        return name in self.objects or name in self.poisoned or name in self.labels

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
        """In the order of their names: that in which they came may tell which private ones were there before."""
        return {
            name: value
            for name, value in sorted(self.objects.items(), key=itemgetter(0))
            if isinstance(value, Tensor) and name not in self.hidden
        }


def extent_of(tensor: Tensor) -> Extent:
    return Extent(meta_of(tensor), offset_of(tensor))


def occupied(values: Iterable[Value]) -> tuple[int, int]:
    """How many of these are tensors, and how many bytes their storages have together."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return len(tensors), sum(storages.values())

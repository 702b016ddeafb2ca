"""What was inferred once: from a signature to the prediction, bounded, least recently used first out."""

import struct
import threading
from collections import Counter, OrderedDict
from typing import Final, NamedTuple

from ptrtensor.wire.instruction import Instruction
from ptrtensor.wire.limits import MAX_INSTRUCTIONS
from ptrtensor.wire.metadata import TensorMeta

Key = tuple[object, ...]


class Extent(NamedTuple):
    """A tensor's metadata and its storage offset in elements."""

    meta: TensorMeta
    offset: int


class Change(NamedTuple):
    """An argument that the operation gives other metadata; `place` counts the call's pointers."""

    place: int
    extent: Extent


class Template(NamedTuple):
    """An instruction, and the format of its commands."""

    instruction: Instruction
    layout: struct.Struct
    is_shared: bool = False
    """Whether it does for many signatures, and so belongs to none of them."""


VIEWS: Final = 4096
"""Views whose place is remembered."""

VIEWS_AT_ONCE: Final = 64
"""Views of one operation, such as the rows of an iteration, that are remembered; to find more anew costs little."""

SHARED: Final = 1024
"""Instructions kept for the calls of one shape."""


class Prediction:
    """What an operation will return for arguments of one signature, and the instruction that makes it so.

    `fresh` is None where only the worker can know. `only` is the one result where one new tensor is all that comes
    of it, as mostly.
    """

    __slots__ = ("changes", "fresh", "only", "template")

    def __init__(
        self,
        template: Template,
        fresh: list[Extent | None] | None,
        changes: list[Change],
        only: Extent | None = None,
    ) -> None:
        self.template = template
        self.fresh = fresh
        self.changes = changes
        self.only = only


class Cache:
    """The predictions for one worker.

    An entry owns its instruction's number, unless many share that; so the worker's table is bounded too. An entry whose
    number was given away is still right: the worker is told again what it means.
    """

    def __init__(self, capacity: int = MAX_INSTRUCTIONS) -> None:
        self.hits = 0
        self.missed: Counter[str] = Counter()
        """The misses by operation."""
        self._entries: OrderedDict[Key, Prediction] = OrderedDict()
        self._shared: OrderedDict[Key, Template] = OrderedDict()
        self._views: dict[Key, list[Extent]] = {}
        self._capacity: Final = capacity
        self._given = 0
        self._free: list[int] = []
        self._lock = threading.Lock()

    @property
    def misses(self) -> int:
        return self.missed.total()

    def get(self, key: Key) -> Prediction | None:
        prediction = self._entries.get(key)
        if prediction is not None:
            self.hits += 1
            try:
                self._entries.move_to_end(key)
            except KeyError:
                pass  # another thread has just evicted it; the prediction holds all the same
        return prediction

    def shared(self, shape: Key) -> Template | None:
        """The instruction for all calls of this shape."""
        with self._lock:
            template = self._shared.get(shape)
            if template is not None:
                self._shared.move_to_end(shape)
            return template

    def share(self, shape: Key, template: Template) -> None:
        with self._lock:
            displaced = self._shared.get(shape)  # another thread defined the same meanwhile
            self._shared[shape] = template
            if len(self._shared) > SHARED:
                _, displaced = self._shared.popitem(last=False)
            if displaced is not None:
                self._free.append(displaced.instruction.number)

    def miss(self, operation: str) -> None:
        """Count what was not found here."""
        with self._lock:
            self.missed[operation] += 1

    def view(self, key: Key) -> list[Extent] | None:
        """Where the views lie that an operation makes."""
        extents = self._views.get(key)
        if extents is not None:
            self.hits += 1
        return extents

    def add_view(self, key: Key, extents: list[Extent]) -> None:
        if len(extents) > VIEWS_AT_ONCE:
            return
        if len(self._views) >= VIEWS:
            self._views.clear()  # most have a rule, which is a matter of microseconds
        self._views[key] = extents

    def number(self) -> int:
        """A number for a new instruction; without room, that of the entry not used for longest."""
        with self._lock:
            if not self._free and self._given < self._capacity:
                self._given += 1
                return self._given
            while not self._free and self._entries:
                self._evict()
            # Without any, threads hold them all and are about to add their entries.
            return self._free.pop() if self._free else self._capacity

    def add(self, key: Key, prediction: Prediction) -> None:
        with self._lock:
            replaced = self._entries.get(key)
            self._entries[key] = prediction
            if replaced is not None:  # another thread inferred the same meanwhile
                self._release(replaced)
            elif len(self._entries) > self._capacity:
                self._evict()

    def _evict(self) -> None:
        self._release(self._entries.popitem(last=False)[1])

    def _release(self, prediction: Prediction) -> None:
        if not prediction.template.is_shared:
            self._free.append(prediction.template.instruction.number)

    def __len__(self) -> int:
        return len(self._entries)

"""What was inferred once: from a signature to the prediction, bounded, least recently used first out."""

import struct
from collections import OrderedDict
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


class Prediction:
    """What an operation will return for arguments of one signature, and the instruction that makes it so.

    `fresh` is None where only the worker can know.
    """

    __slots__ = ("changes", "fresh", "instruction", "layout")

    def __init__(
        self,
        instruction: Instruction,
        layout: struct.Struct,
        fresh: list[Extent | None] | None,
        changes: list[Change],
    ) -> None:
        self.instruction = instruction
        self.layout = layout
        self.fresh = fresh
        self.changes = changes


class Cache:
    """The predictions for one worker. An entry owns an instruction number, so the worker's table is bounded too."""

    def __init__(self, capacity: int = MAX_INSTRUCTIONS) -> None:
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[Key, Prediction] = OrderedDict()
        self._capacity: Final = capacity
        self._given = 0
        self._free: list[int] = []

    def get(self, key: Key) -> Prediction | None:
        prediction = self._entries.get(key)
        if prediction is not None:
            self.hits += 1
            try:
                self._entries.move_to_end(key)
            except KeyError:
                pass  # another thread has just evicted it; the prediction holds all the same
        else:
            self.misses += 1
        return prediction

    def number(self) -> int:
        """A number for a new instruction; without room, that of the entry not used for longest."""
        if self._free:
            return self._free.pop()
        if self._given < self._capacity:
            self._given += 1
            return self._given
        if not self._entries:  # threads hold them all and are about to add their entries
            return self._capacity
        _, oldest = self._entries.popitem(last=False)
        return oldest.instruction.number

    def add(self, key: Key, prediction: Prediction) -> None:
        replaced = self._entries.get(key)
        self._entries[key] = prediction
        if replaced is not None:  # another thread inferred the same meanwhile
            self._free.append(replaced.instruction.number)

    def __len__(self) -> int:
        return len(self._entries)

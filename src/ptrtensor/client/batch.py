"""A batch: commands on their way into one message."""

from ptrtensor.wire.instruction import Instruction


class Batch:
    """Commands from sequence number `first` on, and the definitions they need."""

    __slots__ = ("commands", "definitions", "first")

    def __init__(self, first: int) -> None:
        self.first = first
        self.commands: list[bytes] = []
        self.definitions: list[Instruction] = []

    @property
    def next(self) -> int:
        """The sequence number of the command that is added next."""
        return self.first + len(self.commands)

"""The outbox: commands that were posted and have not been sent, in the order of the calls."""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from itertools import accumulate, islice, repeat
from typing import Final, NamedTuple

from ptrtensor.client.callsite import CallSite
from ptrtensor.client.failures import Failures
from ptrtensor.client.reference import Drop
from ptrtensor.errors import UnsupportedOpError
from ptrtensor.wire.instruction import DROP, DROP_HEADER, NUMBER, Instruction, encoded_size
from ptrtensor.wire.limits import MAX_BATCH_BYTES, MAX_MESSAGE_BYTES
from ptrtensor.wire.messages import Batch

DROP_MARK: Final = NUMBER.pack(DROP)

MAX_DEFINITION_BYTES: Final = MAX_MESSAGE_BYTES - 1024
"""The definitions of one batch; the rest is room for what else the message says."""


class Definition(NamedTuple):
    """An instruction that the worker has not seen, its bytes, and the sequence number from which it is used."""

    instruction: Instruction
    size: int
    sequence: int


class Outbox:
    """Commands from sequence number `first` on, the definitions they need, and the names that died since.

    Everything here survives an interruption between any two steps: a command joins by a single append of complete
    bytes, and a batch is forgotten only after it went out; going out twice is harmless [P7.2].
    """

    def __init__(self, failures: Failures) -> None:
        self.drops: deque[Drop] = deque()
        """What died since; references append here by themselves."""
        self.living: dict[int, Drop] = {}
        self.first = 0
        self.taken = 0
        """Commands that have been in a batch: no worker can have run more."""
        self._dying: list[Drop] = []
        self._failures = failures
        self._commands: list[bytes] = []
        self._definitions: list[Definition] = []
        self._defined: dict[int, Instruction] = {}
        self._names = 1
        self._order = threading.Lock()

    def __len__(self) -> int:
        return len(self._commands)

    @property
    def next(self) -> int:
        """The sequence number of the command that joins next."""
        return self.first + len(self._commands)

    def reserve(self, names: int) -> int:
        """The first of so many names that were never used."""
        with self._order:
            first = self._names
            self._names = first + names
        return first

    def join(self, instruction: Instruction, command: bytes, site: CallSite) -> int:
        """Add a command; how many there are now. 0 if its number means something else in this batch, which must go out
        first [P5.1].

        :raises UnsupportedOpError: it is larger than a batch may be.
        """
        if len(command) > MAX_BATCH_BYTES:
            raise too_large(instruction, len(command), MAX_BATCH_BYTES)
        number = instruction.number
        with self._order:
            known = self._defined.get(number)
            if known is not instruction:
                if known is not None and self._uses(number):
                    return 0
                self._define(instruction)
            waiting = len(self._commands)
            self._failures.issued(self.first + waiting, site)
            self._commands.append(command)
        return waiting + 1

    def _define(self, instruction: Instruction) -> None:
        size = encoded_size(instruction)
        if size > MAX_DEFINITION_BYTES:
            raise too_large(instruction, size, MAX_DEFINITION_BYTES)
        self._definitions.append(Definition(instruction, size, self.first + len(self._commands)))
        self._defined[instruction.number] = instruction

    def _uses(self, number: int) -> bool:
        mark = NUMBER.pack(number)
        return any(command.startswith(mark) for command in self._commands)

    def take_in_drops(self) -> None:
        """The names of dead references become one command, behind every command that used them."""
        # In one C call: between two steps of Python the queue may grow, or an interruption fall.
        self._dying.extend(map(deque.popleft, repeat(self.drops, len(self.drops))))
        if self._dying:
            self.drop([drop.name for drop in self._dying])
            for drop in self._dying:
                self.living.pop(drop.name, None)
            self._dying = []

    def drop(self, names: list[int]) -> None:
        """Add the command that makes the worker forget these names; ones it does not know do no harm. Of very many
        names there are several.
        """
        most = (MAX_BATCH_BYTES - DROP_HEADER.size) // NUMBER.size
        for begin in range(0, len(names), most):
            part = names[begin : begin + most]
            command = DROP_HEADER.pack(DROP, len(part)) + b"".join(map(NUMBER.pack, part))
            with self._order:
                self._commands.append(command)

    def batch(self) -> tuple[Batch, bytes]:
        """What is here as one message: from the first on, as much as one may hold [P3.1]."""
        with self._order:
            commands, definitions = self._commands, self._definitions
            if sum(map(len, commands)) > MAX_BATCH_BYTES or definitions:
                count, defined = self._fitting()
                commands, definitions = commands[:count], definitions[:defined]
            self.taken = self.first + len(commands)
            defining = [definition.instruction for definition in definitions]
            return Batch(self.first, len(commands), defining), b"".join(commands)

    def _fitting(self) -> tuple[int, int]:
        """How many commands, and how many definitions, a batch has room for: no command goes before its definition."""
        count = fitting(map(len, self._commands), MAX_BATCH_BYTES)
        defined = fitting((definition.size for definition in self._definitions), MAX_DEFINITION_BYTES)
        if defined < len(self._definitions):
            count = min(count, self._definitions[defined].sequence - self.first)
        return count, defined

    def only_drops(self, batch: Batch) -> bool:
        """Whether a batch that was not sent yet makes the worker forget names and nothing else."""
        return all(command.startswith(DROP_MARK) for command in islice(self._commands, batch.count))

    def sent(self, batch: Batch) -> None:
        """Forget what went out."""
        with self._order:
            commands, definitions = self._commands[batch.count :], self._definitions[len(batch.definitions) :]
            first = batch.first + batch.count
            self._commands, self._definitions, self.first = commands, definitions, first


def fitting(sizes: Iterable[int], most: int) -> int:
    """How many of these, from the first on, are together no larger than that."""
    return bisect_right(list(accumulate(sizes)), most)


def too_large(instruction: Instruction, size: int, most: int) -> UnsupportedOpError:
    return UnsupportedOpError(
        f"{instruction.op} was given so much that it is {size} bytes to say so, and {most} is the most that travels at "
        "once: call it on parts of its list, and join what they give (a view takes more bytes than a tensor of its own)"
    )

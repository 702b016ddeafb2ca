"""A session: one client's commands in order, over a store of its own.

`handle` is the whole interface: a message with its payload in, the replies with theirs out. It does no I/O, so an
in-process worker and one behind a socket are the same code.
"""

import struct
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Final, assert_never

import torch
from torch import Tensor

from ptrtensor._torch.memory import bytes_of, dense, meta_of, tensor_of
from ptrtensor._torch.state import isolated
from ptrtensor.errors import ProtocolError, UnsupportedOpError
from ptrtensor.wire.connection import Buffer
from ptrtensor.wire.control import Publication
from ptrtensor.wire.instruction import DROP, DROP_HEADER, NUMBER, Instruction
from ptrtensor.wire.limits import MAX_FAILURES, MAX_INSTRUCTIONS, MAX_RESULTS
from ptrtensor.wire.messages import (
    Acknowledged,
    Annotate,
    Batch,
    Bye,
    ClientMessage,
    Configure,
    Counters,
    Denied,
    Describe,
    Described,
    Done,
    Failed,
    Failure,
    Fetch,
    Found,
    Hello,
    Hide,
    Inventory,
    ManualSeed,
    Measure,
    Measured,
    Missing,
    Put,
    ReadGenerator,
    Recover,
    Search,
    Statistics,
    Synchronize,
    Timing,
    Value,
    WorkerMessage,
    WriteGenerator,
)
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.catalogue import Catalogue, extent_of
from ptrtensor.worker.executor import Executor, explain
from ptrtensor.worker.flags import ClientFlags
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.privacy import Privacy
from ptrtensor.worker.program import Program
from ptrtensor.worker.randomness import Randomness
from ptrtensor.worker.stopwatch import Stopwatch
from ptrtensor.worker.store import Labels, Note, Store

Reply = tuple[WorkerMessage, Buffer | None]

HOST: Final = torch.device("cpu")


class Session:
    """The worker's side of one connection."""

    def __init__(
        self,
        identity: Identity,
        compute_device: str = "cpu",
        publications: Sequence[Publication] = (),
        denied: Callable[[str, Labels], None] | None = None,
    ) -> None:
        """`denied` hears of each request that is denied: what was asked for, and the labels of it."""
        self.store = Store()
        self.closed = False
        self._pause: Callable[[], None] | None = None
        self._identity = identity
        self._denied = denied
        self._device = torch.device(compute_device)
        self._randomness = Randomness(self._device)
        self._executor = Executor(self.store, self._randomness)
        self._privacy = Privacy(self.store, self._executor, self._randomness)
        self._catalogue = Catalogue(self.store, self._device, publications)
        self._acknowledged = 0
        self._programs: dict[int, Program] = {}
        self._flags = ClientFlags()
        self._stopwatch: Stopwatch | None = None

    def handle(self, message: ClientMessage, payload: memoryview) -> list[Reply]:
        """Answer one message.

        :raises ProtocolError: the client broke a rule; the session is over.
        """
        return isolated(self._handle, message, payload)

    def has_value(self, name: int) -> bool:
        return name in self.store.objects or name in self.store.labels

    def publish(self, publication: Publication, tensor: Tensor) -> None:
        """Offer a tensor to the client: a copy, in memory that ends where it does."""
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._catalogue.publish(publication, copy.clone)

    def when_paused(self, look: Callable[[], None] | None) -> None:
        """Call this between the commands of a batch. It may have `handle` answer a `Fetch`, and nothing else."""
        self._pause = look

    def _handle(self, message: ClientMessage, payload: memoryview) -> list[Reply]:
        match message:
            case Hello():
                return [(self._identity.greet(message, str(self._device)), None)]
            case Batch():
                with nullcontext() if forgets_only(payload) else self._flags.applied():
                    self._run(message, payload)
                return self._acknowledge()
            case Put():
                self._put(message, payload)
                return []
            case Fetch():
                return [self._fetch(message)]
            case Describe():
                return [(self._describe(message), None)]
            case Hide(name):
                self.store.hidden.add(name)
                return []
            case Annotate(name, tags, description):
                self.store.notes[name] = Note(tags, description)
                return []
            case Search():
                return [(self._catalogue.search(message), None)]
            case Inventory(request):
                return [(Found(request, self._catalogue.entries()), None)]
            case Synchronize(request):
                self._synchronize_device()
                return [*self._acknowledge(), (Done(request), None)]
            case Recover(request):
                self.store.recover()
                return [(Done(request), None)]
            case Configure(settings):
                self._flags.configure(settings)
                return []
            case ManualSeed(seed):
                self._randomness.manual_seed(seed)
                return []
            case ReadGenerator(request):
                return [self._value(request, self._randomness.state)]
            case WriteGenerator(meta):
                self._write_generator(meta, payload)
                return []
            case Statistics(request):
                return [(self.count(request), None)]
            case Measure(request, on):
                return [(Measured(request, self._measure(on)), None)]
            case Bye(request):
                self.closed = True
                return [*self._acknowledge(), (Done(request), None)]
            case _:
                assert_never(message)

    # --- commands

    def _run(self, batch: Batch, commands: memoryview) -> None:
        for instruction in batch.definitions:
            self._define(instruction)
        if batch.first > self._executor.executed:
            raise ProtocolError(f"the client skipped from command {self._executor.executed} to {batch.first}")
        programs, executor, drop, pause = self._programs, self._executor, self.store.drop, self._pause
        run = self._privacy.guarding(executor.run if self._stopwatch is None else self._stopwatch.run)
        sequence, offset, end = batch.first, 0, len(commands)
        while offset < end:
            try:
                (number,) = NUMBER.unpack_from(commands, offset)
                if number == DROP:
                    _, count = DROP_HEADER.unpack_from(commands, offset)
                    begin = offset + DROP_HEADER.size
                    offset = begin + 8 * count
                    names = commands[begin:offset].cast("Q") if offset <= end else None
                    if names is None:
                        raise ProtocolError("the client sent a batch that ends within a command")
                    if sequence >= executor.executed:
                        for name in names:
                            drop(name)
                        executor.executed = sequence + 1
                else:
                    program = programs[number]
                    fields = program.layout.unpack_from(commands, offset)
                    offset += program.layout.size
                    # [P7.2]: what was run before an interruption is not run again.
                    if sequence >= executor.executed:
                        run(program, fields, sequence)
            except KeyError:
                raise ProtocolError("the client used an instruction that it never defined") from None
            except (struct.error, ValueError, TypeError, OverflowError) as error:
                raise ProtocolError(f"the client sent a batch that cannot be read: {error}") from error
            sequence += 1
            if pause is not None:
                pause()
        if sequence != batch.first + batch.count:
            raise ProtocolError(f"the client announced {batch.count} commands, sent {sequence - batch.first}")

    def _define(self, instruction: Instruction) -> None:
        if not DROP < instruction.number <= MAX_INSTRUCTIONS:
            raise ProtocolError(f"instruction number {instruction.number} is out of range")
        if len(instruction.expected or ()) > MAX_RESULTS:
            raise ProtocolError(f"the client predicts more than {MAX_RESULTS} results")
        for meta in instruction.expected or ():
            if meta is not None:
                meta.check()
        self._programs[instruction.number] = Program(instruction, self._device)

    def _acknowledge(self) -> list[Reply]:
        """What has run, and all that failed [P7.4]. Only the last message says how far it got: who reads those before
        must still know which calls they were.
        """
        failures, self._executor.failures = self._executor.failures, []
        replies: list[Reply] = []
        while len(failures) > MAX_FAILURES:
            replies.append((Acknowledged(self._acknowledged, failures[:MAX_FAILURES]), None))
            failures = failures[MAX_FAILURES:]
        self._acknowledged = self._executor.executed
        return [*replies, (Acknowledged(self._acknowledged, failures), None)]

    def _synchronize_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    # --- values in and out

    def _put(self, put: Put, payload: memoryview) -> None:
        device = HOST if put.host else self._device
        try:
            self.store.objects[put.name] = tensor_of(put.meta, payload).to(device)
        except Exception as error:  # out of memory, or strides that overlap
            self._executor.poison(put.name, Failure(-put.name, f"send {put.meta}", *explain(error)))

    def _fetch(self, fetch: Fetch) -> Reply:
        if labels := self.store.labels.get(fetch.name):
            return self._deny(fetch.request, "the value", labels), None
        poison = self.store.poisoned.get(fetch.name)
        if poison is not None:
            return Failed(fetch.request, poison.failure), None
        value = self.store.objects.get(fetch.name)
        if value is None:
            return Missing(fetch.request, fetch.name), None
        if not isinstance(value, Tensor):
            return Value(fetch.request, scalar=value), None
        try:
            return self._value(fetch.request, value)
        except Exception as error:
            return Failed(fetch.request, Failure(-fetch.name, "get", *explain(error))), None

    def _deny(self, request: int, what: str, labels: Labels) -> Denied:
        if self._denied is not None:
            self._denied(what, labels)
        made_of = ", ".join(sorted(labels))
        return Denied(
            request, f"{what} is private, since it was computed from {made_of}: its owner has not allowed it to leave"
        )

    def _value(self, request: int, tensor: Tensor) -> Reply:
        plain = dense(tensor).to(HOST)
        return Value(request, meta_of(plain)), bytes_of(plain)

    def _describe(self, describe: Describe) -> Described | Denied | Failed | Missing:
        if labels := self.store.labels.get(describe.name):
            return self._deny(describe.request, "what depends on values (a shape, or whether it worked)", labels)
        poison = self.store.poisoned.get(describe.name)
        if poison is not None:
            return Failed(describe.request, poison.failure)
        outcome = self.store.outcomes.pop(describe.name, None)
        if outcome is None:
            return Missing(describe.request, describe.name)
        try:
            return Described(
                describe.request,
                [extent_of(value) if isinstance(value, Tensor) else None for value in outcome.fresh],
                [extent_of(value) for value in outcome.written],
            )
        except UnsupportedOpError as error:
            return Failed(describe.request, Failure(-describe.name, "result", *explain(error)))

    def _write_generator(self, meta: TensorMeta, payload: memoryview) -> None:
        try:
            self._randomness.state = tensor_of(meta, payload)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ProtocolError(f"the client sent a generator state that torch refuses: {error}") from error

    def _measure(self, on: bool) -> list[Timing]:
        timings = [] if self._stopwatch is None else self._stopwatch.timings()
        self._stopwatch = Stopwatch(self._executor) if on else None
        return timings

    def count(self, request: int) -> Counters:
        """Of private objects neither number nor size: what failed is not there, and a size may depend on values."""
        labels = self.store.labels
        tensors = [
            value
            for name, value in list(self.store.objects.items())
            if isinstance(value, Tensor) and name not in labels
        ]
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
        return Counters(
            request,
            self._executor.executed,
            self._executor.operations,
            len(tensors),
            sum(storages.values()),
            len([name for name in list(self.store.poisoned) if name not in labels]),
        )


def forgets_only(commands: memoryview) -> bool:
    """Whether these commands compute nothing: a client in this process sends them from a thread of its own, where no
    flag of the process may change even for a moment.
    """
    offset = 0
    while offset + DROP_HEADER.size <= len(commands):
        number, count = DROP_HEADER.unpack_from(commands, offset)
        if number != DROP:
            return False
        offset += DROP_HEADER.size + 8 * count
    return offset == len(commands)

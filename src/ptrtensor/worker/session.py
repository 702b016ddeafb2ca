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

from ptrtensor._torch.memory import is_out_of_memory, tensor_of
from ptrtensor._torch.operations import resolve_op
from ptrtensor._torch.state import isolated
from ptrtensor.errors import ProtocolError
from ptrtensor.wire.control import Publication, Quota, Reported
from ptrtensor.wire.instruction import DROP, DROP_HEADER, NUMBER, Instruction
from ptrtensor.wire.limits import MAX_FAILURES, MAX_INSTRUCTIONS, MAX_RESULTS
from ptrtensor.wire.messages import (
    Acknowledged,
    Annotate,
    AskRelease,
    Batch,
    Bye,
    ClientMessage,
    CollectRelease,
    Configure,
    Counters,
    Describe,
    Done,
    Failed,
    Failure,
    Fetch,
    Found,
    Hello,
    Hide,
    Inventory,
    Invite,
    ListReleases,
    ManualSeed,
    Measure,
    Measured,
    Put,
    ReadGenerator,
    Recover,
    Seal,
    Search,
    Statistics,
    Synchronize,
    Timing,
    Unseal,
    WriteGenerator,
)
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.catalogue import Catalogue
from ptrtensor.worker.executor import Executor, came_from_outside, explain
from ptrtensor.worker.exits import Exits, Reply, value_of
from ptrtensor.worker.flags import ClientFlags
from ptrtensor.worker.identity import Identity
from ptrtensor.worker.meter import Meter
from ptrtensor.worker.moves import Moves
from ptrtensor.worker.owner import TOO_MUCH_MEMORY, Owner
from ptrtensor.worker.privacy import Privacy, Run
from ptrtensor.worker.program import Program
from ptrtensor.worker.randomness import Randomness
from ptrtensor.worker.stopwatch import Stopwatch
from ptrtensor.worker.store import Note, Store, occupied

HOST: Final = torch.device("cpu")


class Session:
    """The worker's side of one connection."""

    def __init__(
        self,
        identity: Identity,
        compute_device: str = "cpu",
        publications: Sequence[Publication] = (),
        owner: Owner | None = None,
        quota: Quota = Quota(),  # noqa: B008
        *,
        in_process: bool = False,
        clears_memory: bool = False,
    ) -> None:
        """`owner` says what may leave; by default nothing that is private. `in_process`: the client is in this process,
        and its signal handlers raise here. `clears_memory`: a client is not shown what was freed; nobody else does it.
        """
        self._in_process = in_process
        self._clears_memory = clears_memory
        self.store = Store()
        self.closed = False
        self._pause: Callable[[], None] | None = None
        self._identity = identity
        self._owner = Owner() if owner is None else owner
        self._device = torch.device(compute_device)
        self._randomness = Randomness(self._device)
        self._executor = Executor(self.store, self._randomness, self._owner, in_process=in_process)
        self._privacy = Privacy(self.store, self._executor, self._randomness, self._owner)
        self._exits = Exits(self.store, self._owner)
        self._meter = Meter(quota, self.store, self._executor, self._owner)
        self._moves = Moves(self.store, self._executor, self._owner, self._meter)
        self._catalogue = Catalogue(self.store, self._device, publications)
        self._acknowledged = 0
        self._reported: list[Failure] = []
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
                # It came before, so its sender may not have had what was said of it [P7.2].
                again = [failure for failure in self._reported if failure.sequence >= message.first]
                with nullcontext() if forgets_only(payload) else self._flags.applied():
                    self._run(message, payload)
                self._executor.failures[:0] = again
                return self._acknowledge()
            case Put():
                self._put(message, payload)
                return []
            case Fetch():
                return [self._exits.fetch(message)]
            case Describe():
                return [(self._exits.describe(message), None)]
            case Hide(name):
                if self.store.is_known(name):
                    self.store.hidden.add(name)
                return []
            case Annotate(name, tags, description):
                if self.store.is_known(name):
                    self.store.notes[name] = Note(tags, description)
                return []
            case Search():
                return [(self._search(message), None)]
            case Invite() | Seal() | Unseal():
                return [self._moves.handle(message, payload)]
            case AskRelease() | ListReleases() | CollectRelease():
                return [self._exits.release(message)]
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
                return [value_of(request, self._randomness.state)]
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
        run: Run = executor.run if self._stopwatch is None else self._stopwatch.run
        run = self._meter.guarding(self._privacy.guarding(run))
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
            except (KeyError, struct.error, ValueError, TypeError, OverflowError) as error:
                if self._in_process and came_from_outside(error):
                    raise
                if isinstance(error, KeyError):
                    raise ProtocolError("the client used an instruction that it never defined") from None
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
        program = self._programs[instruction.number] = Program(instruction, self._device, clears=self._clears_memory)
        if program.is_refused:  # whatever it is to be run on
            known = resolve_op(instruction.op) is not None
            what = instruction.op.partition(".")[0] if known else "what torch does not have"
            self._owner.note_denial(f"to run {what}", operation=instruction.op)

    def _acknowledge(self) -> list[Reply]:
        """What has run, and all that failed [P7.4]. Only the last message says how far it got: who reads those before
        must still know which calls they were.
        """
        failures = self._reported = self._executor.failures
        self._executor.failures = []
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
            self._meter.check_room_for(put.name, put.meta)
            tensor = tensor_of(put.meta, payload).to(device)
            self.store.drop(put.name)  # what a client gave this name before shares nothing with it
            self.store.objects[put.name] = tensor
        except ProtocolError:
            raise
        except Exception as error:  # out of memory, over the quota, or strides that overlap
            self._executor.poison(put.name, Failure(-put.name, f"send {put.meta}", *explain(error)))
            if is_out_of_memory(error):
                self._owner.note_denial(TOO_MUCH_MEMORY, put.name, meta=put.meta)

    def _search(self, search: Search) -> Found | Failed:
        try:
            self._meter.check_room_for(search.name)
            return self._catalogue.search(search)
        except ProtocolError:
            raise
        except Exception as error:  # over the quota, out of memory, or a file that is gone
            if is_out_of_memory(error):
                self._owner.note_denial(TOO_MUCH_MEMORY, search.name)
            return Failed(search.request, Failure(-search.name, "search", *explain(error)))

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
        return Counters(
            request,
            self._executor.executed,
            self._executor.operations,
            *occupied(value for name, value in list(self.store.objects.items()) if name not in labels),
            len([name for name in list(self.store.poisoned) if name not in labels]),
        )

    def report(self) -> Reported:
        """For the owner, of all that is here. Called by any thread."""
        return Reported(
            self._executor.executed, self._executor.operations, *occupied(list(self.store.objects.values()))
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

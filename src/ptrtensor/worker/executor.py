"""The executor runs one command over the store: results under their names, or poison [P8]."""

import contextlib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ptrtensor._torch.memory import is_out_of_memory, meta_of
from ptrtensor._torch.subclass import with_lazy_bits
from ptrtensor.errors import ObjectNotFoundError, PtrTensorError, UnsupportedOpError
from ptrtensor.wire.limits import MAX_FAILURE_TEXT, MAX_RESULTS
from ptrtensor.wire.messages import Failure
from ptrtensor.worker.arguments import Fields
from ptrtensor.worker.owner import NO_SUCH_OBJECT, TOO_MUCH_MEMORY, Owner
from ptrtensor.worker.program import Program
from ptrtensor.worker.randomness import Randomness
from ptrtensor.worker.store import PUBLIC, Outcome, Poison, Store, Value, extent_of
from ptrtensor.worker.uninitialised import clear

MAX_HELD_FAILURES: Final = 4096
"""Failures that wait to be reported; of those beyond, their results tell."""

INTERRUPTED: Final = "the operation was interrupted; what it writes may be half written"


class Executor:
    def __init__(self, store: Store, randomness: Randomness, owner: Owner, *, in_process: bool = False) -> None:
        self.failures: list[Failure] = []
        self.tells = True
        """Whether failures are told, to the client or to the owner: those of private commands are not [P11.4]."""
        self.executed = 0
        """The sequence number of the command that runs next."""
        self.operations = 0
        """How many were run or skipped, drops not among them. Skipped ones count: which they are may be private."""
        self._in_process = in_process
        self._store = store
        self._randomness = randomness
        self._owner = owner

    def run(self, program: Program, fields: Fields, sequence: int) -> None:
        """Run one command. A failure of it is kept, never raised.

        `executed` moves on as the operation begins: interrupted before, it is run when the command comes again
        [P7.2]; interrupted after, it has failed.
        """
        objects = self._store.objects
        try:
            args, kwargs = program.arguments(fields, objects)
        except Exception as error:
            if self._is_interruption(error):
                raise
            if isinstance(error, KeyError):
                self._skip(program, fields, sequence)
                self.executed = sequence + 1
                return
            self.executed = sequence + 1  # a view that does not lie within its tensor
            self.operations += 1
            failure = Failure(sequence, program.instruction.op[:MAX_FAILURE_TEXT], *explain(error))
            self._report(failure)
            self._fail(program, fields, failure)
            return
        try:
            self.executed = sequence + 1
            self.operations += 1
            if program.settled is not None:
                returned = program.kernel(*args, **kwargs)
                if program.settled:
                    objects[fields[-1]] = returned
                return
            if program.instruction.draws:
                returned = self._draw(program, args, kwargs, int(fields[-2]))
            else:
                returned = program.kernel(*args, **kwargs)
            fresh = program.results(returned)
            if program.instruction.expected is None or not program.checked or program.restrides:
                refuse_foreign(fresh)
            if not program.checked or program.restrides:
                fresh = self._check(program, fresh)
            expected = program.instruction.expected
            if expected is not None and len(fresh) != len(expected):
                raise UnsupportedOpError(f"it has {len(fresh)} results where its caller predicted {len(expected)}")
            if len(fresh) > MAX_RESULTS:
                raise UnsupportedOpError(f"it has {len(fresh)} results, more than {MAX_RESULTS}")
            name = int(fields[-1])
            if program.instruction.expected is None:
                written = [objects[int(fields[field])] for field in program.written_fields]
                self._store.outcomes[name] = Outcome(
                    [extent_of(value) if isinstance(value, Tensor) else value for value in fresh],
                    [extent_of(value) for value in written if isinstance(value, Tensor)],
                )
            for value in fresh:
                if value is not None:
                    objects[name] = value
                name += 1
        except BaseException as error:
            interrupted = self._is_interruption(error)
            if self.executed > sequence:
                what = program.describe(args, kwargs)[:MAX_FAILURE_TEXT]
                failure = Failure(sequence, what, *explain(error))
                if not interrupted:  # of Ctrl-C its caller is told by Ctrl-C itself
                    self._report(failure)
                self._fail(program, fields, failure)
                if self.tells and is_out_of_memory(error):
                    self.note_denial(TOO_MUCH_MEMORY, program, fields)
            if interrupted:
                raise

    def refuse(self, program: Program, fields: Fields, sequence: int, error: PtrTensorError) -> None:
        """Do not run it: the owner of the worker does not allow it. What it would write to is only held back."""
        self.executed = sequence + 1
        self.operations += 1
        reason = f"{type(error).__name__}: {error}"[:MAX_FAILURE_TEXT]
        failure = Failure(sequence, program.instruction.op[:MAX_FAILURE_TEXT], reason, "")
        self._report(failure)
        self._store.poison_storages(self._written(program, fields), failure, written=False)
        self._poison_results(program, fields, failure)

    def note_denial(self, what: str, program: Program, fields: Fields) -> None:
        """The owner learns of a command that its client is told was not done."""
        names = [int(fields[field]) for field in (*program.object_fields, -1)]
        labels = PUBLIC.union(*(self._store.labels.get(name, PUBLIC) for name in names))
        made = names[-1] if program.instruction.expected != () else next(iter(self._written(program, fields)), None)
        self._owner.note_denial(what, made, labels, program.instruction.op, program.prediction)

    def poison(self, name: int, failure: Failure) -> None:
        """A value that could not be made, for a reason that is to be reported."""
        self._report(failure)
        self._store.objects.pop(name, None)
        self._store.poisoned[name] = Poison(failure)

    def _is_interruption(self, error: BaseException) -> bool:
        return not isinstance(error, Exception) or (self._in_process and came_from_outside(error))

    def _draw(self, program: Program, args: Sequence[object], kwargs: dict[str, object], seed: int) -> object:
        if program.takes_generator:
            generator = self._randomness.generator(seed)
            if program.generator_position < len(args):
                args = list(args)
                args[program.generator_position] = generator
                return program.kernel(*args, **kwargs)
            return program.kernel(*args, **kwargs, generator=generator)
        with self._randomness.as_default(seed):
            return program.kernel(*args, **kwargs)

    def _check(self, program: Program, fresh: list[Value | None]) -> list[Value | None]:
        """Hold the caller's prediction against what came [P5.4].

        Fresh results may be laid out anew; any other difference would make the caller compute with wrong shapes.
        """
        expected = program.instruction.expected
        assert expected is not None
        differs = len(expected) != len(fresh)
        for place, (meta, value) in enumerate(zip(expected, fresh, strict=False)):
            if meta is None:
                continue  # its caller masked it out, whatever the kernel makes of that
            if not isinstance(value, Tensor):
                differs = True
                continue
            real = meta_of(value)
            if real.same_as(meta):
                continue
            if program.makes_views or (real.shape, real.dtype, real.conj, real.neg) != (
                meta.shape,
                meta.dtype,
                meta.conj,
                meta.neg,
            ):
                differs = True
                continue
            laid_out = torch.empty_strided(meta.shape, meta.stride, dtype=value.dtype, device=value.device)
            if program.clears:
                clear(laid_out)  # between its elements
            fresh[place] = with_lazy_bits(laid_out, meta.conj, meta.neg).copy_(value)
            program.restrides = True
        if differs:
            got = ", ".join(str(meta_of(value)) if isinstance(value, Tensor) else str(value) for value in fresh)
            raise UnsupportedOpError(
                f"{program.instruction.op} returned {got} where its caller predicted {', '.join(map(str, expected))}: "
                "the two sides' torch disagree about this operation"
            )
        program.settle()
        return fresh

    # --- what did not work

    def _skip(self, program: Program, fields: Fields, sequence: int) -> None:
        """An input has no value: the command is not run, and what hangs on it is poisoned [P8.3]."""
        self.operations += 1
        names = [int(fields[field]) for field in program.object_fields]
        for name in names:
            poison = self._store.poisoned.get(name)
            if poison is not None:
                failure = poison.failure
                break
        else:
            poison = None
            missing = next(name for name in names if name not in self._store.objects)
            error = ObjectNotFoundError(f"the worker holds no object {missing}")
            failure = Failure(sequence, program.instruction.op[:MAX_FAILURE_TEXT], *explain(error))
            self._report(failure)
            if self.tells:
                self._owner.note_denial(NO_SUCH_OBJECT, missing, operation=program.instruction.op)
        self._store.poison_storages(self._written(program, fields), failure, written=False)
        self._poison_results(program, fields, failure)
        if program.makes_views and poison is not None and poison.value is not None:
            self._keep_view(program, fields, {name: poison.value})

    def _keep_view(self, program: Program, fields: Fields, kept: dict[int, Value]) -> None:
        """A view of a value that is only held back is held back too, and comes back with it [P8.4]."""
        with contextlib.suppress(Exception):  # it stays without a value
            args, kwargs = program.arguments(fields, kept)
            for name, view in enumerate(program.results(program.kernel(*args, **kwargs)), int(fields[-1])):
                self._store.poisoned[name].value = view

    def _fail(self, program: Program, fields: Fields, failure: Failure) -> None:
        """A failed operation may have written part of its targets: no alias of theirs can be trusted [P8.2]."""
        self._store.poison_storages(self._written(program, fields), failure, written=True)
        self._poison_results(program, fields, failure)

    def _poison_results(self, program: Program, fields: Fields, failure: Failure) -> None:
        expected = program.instruction.expected
        # At least one where the caller will ask, so that it hears of the failure.
        count = max(1, sum(program.stores)) if expected is None else len(expected)
        for name in range(int(fields[-1]), int(fields[-1]) + count):
            self._store.objects.pop(name, None)
            self._store.poisoned[name] = Poison(failure)

    def _written(self, program: Program, fields: Fields) -> set[int]:
        return {int(fields[field]) for field in program.touched_fields}

    def _report(self, failure: Failure) -> None:
        if self.tells and len(self.failures) < MAX_HELD_FAILURES:
            self.failures.append(failure)


def refuse_foreign(fresh: list[Value | None]) -> None:
    """:raises UnsupportedOpError: a result is nothing that a pointer can stand for, or that travels."""
    for value in fresh:
        if isinstance(value, Tensor):
            meta_of(value)  # refuses layouts that pointers do not have
        elif not isinstance(value, bool | int | float | None):
            raise UnsupportedOpError(f"it returned a {type(value).__name__}, which does not travel")


LIBRARIES: Final = (f"{Path(torch.__file__).parent}/", f"{Path(__file__).parents[1]}/")


def came_from_outside(error: BaseException) -> bool:
    """Whether a signal handler raised it, in neither torch nor here: in this process it is the caller's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and not trace.tb_frame.f_code.co_filename.startswith(LIBRARIES)


def explain(error: BaseException) -> tuple[str, str]:
    """The error in a line, and the worker's traceback."""
    text = "".join(traceback.format_exception(error))
    reason = str(error) if isinstance(error, Exception) else INTERRUPTED
    return f"{type(error).__name__}: {reason}"[:MAX_FAILURE_TEXT], text[-MAX_FAILURE_TEXT:]

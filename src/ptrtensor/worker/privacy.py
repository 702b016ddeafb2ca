"""What is private, and stays so [P11]: each name carries the labels of the private data that its value was made of.

A command with a private input makes private results, and turns private whatever it writes to, with every alias of it.
Whether it failed is private too: its results are poisoned and nobody is told, unless the owner lets the client read all
of it.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor

from ptrtensor._torch.memory import storage_key
from ptrtensor.errors import PermissionDeniedError
from ptrtensor.wire.messages import Failure
from ptrtensor.worker.arguments import Fields
from ptrtensor.worker.executor import Executor, explain
from ptrtensor.worker.owner import Owner
from ptrtensor.worker.program import Program
from ptrtensor.worker.randomness import Randomness
from ptrtensor.worker.store import PUBLIC, Labels, Poison, Store

Run = Callable[[Program, Fields, int], None]

FORGOTTEN: Final = -(2**62)
"""The first name of results that are forgotten at once. No client's, nor a publication's."""

NO_SIZES: Final = "a private number is no argument: shapes would depend on it"

NO_VALUE: Final = "there is no value: whether there is one, or how many, depends on private values"


class Privacy:
    """Stands in front of the executor once there is anything private."""

    def __init__(self, store: Store, executor: Executor, randomness: Randomness, owner: Owner) -> None:
        self._store = store
        self._executor = executor
        self._randomness = randomness
        self._owner = owner

    def guarding(self, run: Run) -> Run:
        """The same, with labels; unchanged while nothing is private."""
        if not self._store.labels:
            return run

        def guarded(program: Program, fields: Fields, sequence: int) -> None:
            labels = self._labels(program, fields)
            if labels:
                self._run_privately(run, program, fields, sequence, labels)
            elif program.instruction.expected is None:
                self._run_unpredicted(run, program, fields, sequence)
            else:
                run(program, fields, sequence)

        return guarded

    def _labels(self, program: Program, fields: Fields) -> Labels:
        """Those of its arguments; and of its results' names, where a client uses names again."""
        known = self._store.labels
        names = [*(int(fields[field]) for field in program.object_fields), *results_of(program, fields)]
        return PUBLIC.union(*[known[name] for name in names if name in known])

    def _run_unpredicted(self, run: Run, program: Program, fields: Fields, sequence: int) -> None:
        """Public, and under names of which nobody knew that they would be used."""
        self._store.outcomes.pop(int(fields[-1]), None)
        run(program, fields, sequence)
        self._label_unpredicted(int(fields[-1]), PUBLIC)

    def _label_unpredicted(self, first: int, labels: Labels) -> None:
        """Whatever had these names before is there no more."""
        outcome = self._store.outcomes.get(first)
        for name, value in enumerate(() if outcome is None else outcome.fresh, first):
            if value is not None:
                self._store.labels.pop(name, None)
                self._store.poisoned.pop(name, None)
                self._store.label(name, labels)

    def _run_privately(self, run: Run, program: Program, fields: Fields, sequence: int, labels: Labels) -> None:
        results = results_of(program, fields)
        try:
            self._owner.check_operation(program.instruction.op, labels)
        except PermissionDeniedError as error:
            # Told, and no secret: labels do not depend on values.
            self._label(results, labels)
            self._executor.refuse(program, fields, sequence, error)
            self._executor.note_denial(f"to run {program.instruction.op.partition('.')[0]}", program, fields)
            return
        # All of it before it runs: what is interrupted has perhaps written already, and what fails leaves no trace.
        self._label(results, labels)
        written = [int(fields[field]) for field in program.touched_fields]
        self._store.origins.update(dict.fromkeys((*results, *written), program.instruction.op))
        if program.shares:
            shared = [int(fields[field]) for field in program.object_fields]
            self._label_aliases(shared, labels)
            self._store.unite([*shared, *results])
        else:
            self._label_aliases(written, labels)
        is_open = self._owner.is_open(labels)
        forgets = program.instruction.expected is None and not is_open
        twin, given = program.twin(labels), (*fields[:-1], FORGOTTEN) if forgets else fields
        self._store.outcomes.pop(int(fields[-1]), None)
        try:
            self._executor.tells = is_open
            with self._randomness.privately(sequence):
                refused = not is_open and self._takes_numbers(program, fields)
                run_it = run if is_open else self._executor.run  # no stopwatch: a time may tell of values
                run_it(twin.refused(NO_SIZES) if refused else twin, given, sequence)
        finally:
            self._executor.tells = True
            if forgets:
                self._forget_results(program)
            elif program.instruction.expected is None:
                self._label_unpredicted(int(fields[-1]), labels)
            if not program.shares:
                self._separate(program, fields, results, sequence)
            if not is_open:
                self._count_evenly(program, results, sequence, forgets)

    def _label(self, names: Iterable[int], labels: Labels) -> None:
        for name in names:
            self._store.label(name, labels)

    def _takes_numbers(self, program: Program, fields: Fields) -> bool:
        """Whether one of its arguments is a private number that an operation returned, and not a tensor."""
        values = (self._store.objects.get(int(fields[field])) for field in program.object_fields)
        return any(isinstance(value, bool | int | float) for value in values)

    def _forget_results(self, program: Program) -> None:
        """Their caller could not predict them and is not told of them; how many there are would show in their names."""
        outcome = self._store.outcomes.pop(FORGOTTEN, None)
        count = max(1, sum(program.stores), 0 if outcome is None else len(outcome.fresh))
        for name in range(FORGOTTEN, FORGOTTEN + count):
            self._store.objects.pop(name, None)
            self._store.poisoned.pop(name, None)

    def _separate(self, program: Program, fields: Fields, results: Iterable[int], sequence: int) -> None:
        """Results that share memory where no schema says so, as `broadcast_tensors` makes them, get their own: labels
        would not follow what is written there.
        """
        objects = self._store.objects
        made = [(name, value) for name in results if isinstance(value := objects.get(name), Tensor)]
        if made:
            given = [objects.get(int(fields[field])) for field in program.object_fields]
            taken = {storage_key(value) for value in given if isinstance(value, Tensor)}
            for name, value in made:
                if storage_key(value) in taken:
                    try:
                        value = objects[name] = value.clone()
                    except RuntimeError as error:  # out of memory
                        del objects[name]
                        self._store.poisoned[name] = Poison(Failure(sequence, "", *explain(error)))
                        continue
                taken.add(storage_key(value))

    def _count_evenly(self, program: Program, results: Iterable[int], sequence: int, forgotten: bool) -> None:
        """Each name holds a value or poison, and not both, and as much memory, whatever came of it: the number of
        objects and their memory are limited, and what there is room for would tell.
        """
        expected = program.instruction.expected or ()
        for place, name in enumerate(results):
            if forgotten:
                self._store.objects.pop(name, None)
            if name in self._store.objects:
                self._store.poisoned.pop(name, None)
                continue
            poison = self._store.poisoned.setdefault(name, Poison(Failure(sequence, "", NO_VALUE, "")))
            meta = expected[place] if place < len(expected) else None
            if meta is not None and poison.value is None and not program.shares:
                poison = self._store.poisoned[name] = Poison(poison.failure)  # its own, not another's
                # Without it there would have been none for the value either.
                with contextlib.suppress(RuntimeError, TypeError, OverflowError):
                    poison.room = torch.empty(meta.extent, dtype=torch.uint8, device=program.device)

    def _label_aliases(self, names: list[int], labels: Labels) -> None:
        """What shares memory with these is as private as they are.

        Of what failed nobody can see any more what shared its memory: families remember.
        """
        fresh = [name for name in names if not labels <= self._store.labels.get(name, PUBLIC)]
        if not fresh:
            return
        kept = (self._store.kept(name) for name in fresh)
        sharing: dict[int, set[int]] = {storage_key(value): set() for value in kept if isinstance(value, Tensor)}
        for name, value in self._store.all_kept():
            if isinstance(value, Tensor) and (group := sharing.get(storage_key(value))) is not None:
                group.add(name)
        for group in sharing.values():
            if len(group) > 1:
                self._store.unite(group)
        aliases = set(fresh).union(*sharing.values())
        self._label(aliases.union(*(self._store.families.get(name, ()) for name in aliases)), labels)


def results_of(program: Program, fields: Fields) -> range:
    """The names of its results; the first one's, where their number is not known."""
    expected = program.instruction.expected
    first = int(fields[-1])
    return range(first, first + (1 if expected is None else len(expected)))

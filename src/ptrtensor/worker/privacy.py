"""What is private, and stays so [P11]: each name carries the labels of the private data that its value was made of.

A command with a private input makes private results, and turns private whatever it writes to, with every alias of it.
Whether it failed is private too: its results are poisoned and nobody is told.
"""

from collections.abc import Callable

from torch import Tensor

from ptrtensor._torch.memory import storage_key
from ptrtensor.worker.executor import Executor
from ptrtensor.worker.program import Fields, Program
from ptrtensor.worker.randomness import Randomness
from ptrtensor.worker.store import PUBLIC, Labels, Store

Run = Callable[[Program, Fields, int], None]


class Privacy:
    """Stands in front of the executor once there is anything private."""

    def __init__(self, store: Store, executor: Executor, randomness: Randomness) -> None:
        self._store = store
        self._executor = executor
        self._randomness = randomness

    def guarding(self, run: Run) -> Run:
        """The same, with labels; unchanged while nothing is private."""
        if not self._store.labels:
            return run

        def guarded(program: Program, fields: Fields, sequence: int) -> None:
            labels = self._labels(program, fields)
            if labels:
                self._run_privately(run, program, fields, sequence, labels)
            else:
                run(program, fields, sequence)

        return guarded

    def _labels(self, program: Program, fields: Fields) -> Labels:
        known = self._store.labels
        return PUBLIC.union(*(known.get(int(fields[field]), PUBLIC) for field in program.object_fields))

    def _run_privately(self, run: Run, program: Program, fields: Fields, sequence: int, labels: Labels) -> None:
        reported = len(self._executor.failures)
        written = [int(fields[field]) for field in program.touched_fields]
        # Before it runs: what is interrupted has perhaps written already.
        self._label_aliases(written, labels)
        self._label_results(program, int(fields[-1]), labels)
        try:
            with self._randomness.privately():
                run(program, fields, sequence)
        finally:
            del self._executor.failures[reported:]
            self._label_aliases(written, labels)  # `set_` gives its target another storage
            if program.instruction.expected is None:
                self._forget_results(program, int(fields[-1]))

    def _label_results(self, program: Program, first: int, labels: Labels) -> None:
        expected = program.instruction.expected
        for name in range(first, first + (1 if expected is None else len(expected))):
            self._store.label(name, labels)

    def _forget_results(self, program: Program, first: int) -> None:
        """Their caller could not predict them and is not told of them; how many there are would show in their names."""
        outcome = self._store.outcomes.pop(first, None)
        self._store.objects.pop(first, None)
        count = max(sum(program.stores), 0 if outcome is None else len(outcome.fresh))
        for name in range(first + 1, first + count):
            self._store.objects.pop(name, None)
            self._store.poisoned.pop(name, None)

    def _label_aliases(self, names: list[int], labels: Labels) -> None:
        """What shares memory with these is as private as they are."""
        fresh = [name for name in names if not labels <= self._store.labels.get(name, PUBLIC)]
        if not fresh:
            return
        storages = set()
        for name in fresh:
            self._store.label(name, labels)
            value = self._store.kept(name)
            if isinstance(value, Tensor):
                storages.add(storage_key(value))
        for name, value in self._store.all_kept():
            if isinstance(value, Tensor) and storage_key(value) in storages:
                self._store.label(name, labels)

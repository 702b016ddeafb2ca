"""What one session may use of the worker: objects, memory, and what the owner counts."""

from ptrtensor.errors import ProtocolError, QuotaExceededError
from ptrtensor.wire.control import Quota
from ptrtensor.wire.limits import MAX_RESULTS
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.arguments import Fields
from ptrtensor.worker.executor import Executor
from ptrtensor.worker.owner import TOO_MANY_OBJECTS, Owner
from ptrtensor.worker.privacy import Run
from ptrtensor.worker.program import Program
from ptrtensor.worker.store import Store


class Meter:
    """Stands before every command, where there is a limit."""

    def __init__(self, quota: Quota, store: Store, executor: Executor, owner: Owner) -> None:
        self._quota = quota
        self._store = store
        self._executor = executor
        self._owner = owner

    def guarding(self, run: Run) -> Run:
        """The same within the limits; unchanged where there are none."""
        if self._quota.metered:
            run = self._counting(run)
        return run if self._quota.objects is None else self._limiting(run)

    def _counting(self, run: Run) -> Run:
        def counted(program: Program, fields: Fields, sequence: int) -> None:
            try:
                self._owner.check_consumption(1)
            except QuotaExceededError as error:
                self._executor.refuse(program, fields, sequence, error)
            else:
                run(program, fields, sequence)

        return counted

    def _limiting(self, run: Run) -> Run:
        def limited(program: Program, fields: Fields, sequence: int) -> None:
            try:
                self.check_room(len(program.instruction.expected or (None,)))
            except QuotaExceededError as error:
                self._executor.refuse(program, fields, sequence, error)
                self._executor.note_denial(TOO_MANY_OBJECTS, program, fields)
            else:
                run(program, fields, sequence)

        return limited

    def check_room_for(self, name: int, meta: TensorMeta | None = None) -> None:
        """Whether there is room for an object that no command makes. Raises as `check_room` does."""
        try:
            self.check_room()
        except QuotaExceededError:
            self._owner.note_denial(TOO_MANY_OBJECTS, name, meta=meta)
            raise

    def check_room(self, more: int = 1) -> None:
        """Whether there is room for so many more objects. Poisoned ones count: which they are may be private.

        So do names that stand for less than an object, if there are more of them.

        :raises QuotaExceededError: there is not.
        :raises ProtocolError: the client goes on and on regardless.
        """
        most = self._quota.objects
        if most is None:
            return
        store = self._store
        count = max(len(store.objects) + len(store.poisoned), len(store.labels), len(store.outcomes))
        if count > 2 * most + MAX_RESULTS:
            raise ProtocolError(f"the client made {count} objects where {most} are allowed, and does not stop")
        if count + more > most:
            raise QuotaExceededError(f"there are {count} objects, and the owner of the worker allows {most}: drop some")

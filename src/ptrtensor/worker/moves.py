"""Private values that move to and from other owners' workers, sealed [P13]."""

from torch import Tensor

from ptrtensor._torch.memory import allocate, bytes_of, meta_of, tensor_of
from ptrtensor.errors import PermissionDeniedError
from ptrtensor.wire.control import Bytes, Sealing
from ptrtensor.wire.limits import MAX_MOVED_BYTES
from ptrtensor.wire.messages import Denied, Done, Failure, Invitation, Invite, Seal, Sealed, Unseal
from ptrtensor.worker.executor import Executor, explain
from ptrtensor.worker.exits import WITHOUT_VALUE, Reply, plain
from ptrtensor.worker.meter import Meter
from ptrtensor.worker.owner import Owner
from ptrtensor.worker.store import PUBLIC, Poison, Store


class Moves:
    """Of one session."""

    def __init__(self, store: Store, executor: Executor, owner: Owner, meter: Meter) -> None:
        self._store = store
        self._executor = executor
        self._owner = owner
        self._meter = meter

    def handle(self, message: Invite | Seal | Unseal, payload: memoryview) -> Reply:
        try:
            match message:
                case Invite(request):
                    return Invitation(request, self._owner.invite()), None
                case Seal(request):
                    return Sealed(request), self._owner.seal(self._sealing(message))
                case Unseal(request, name):
                    self._unseal(name, payload)
                    return Done(request), None
        except PermissionDeniedError as error:
            return Denied(message.request, str(error)), None

    def _sealing(self, seal: Seal) -> Sealing:
        """Whether there is a value is for the other side only: the box is as large without."""
        if not 0 <= seal.size <= MAX_MOVED_BYTES:
            raise PermissionDeniedError(f"{seal.size} bytes cannot move at once: {MAX_MOVED_BYTES} are the most")
        value, poison = self._store.objects.get(seal.name), self._store.poisoned.get(seal.name)
        labels = tuple(sorted(self._store.labels.get(seal.name, PUBLIC)))
        failure, meta = WITHOUT_VALUE if poison is None else poison.failure.error, None
        data: Bytes = b""
        try:
            if isinstance(value, Tensor):
                values = plain(value)
                if values.nbytes == seal.size:
                    meta, data, failure = meta_of(values), bytes_of(values), ""
                else:
                    failure = f"the value has {values.nbytes} bytes where its client predicted {seal.size}"
        except Exception as error:  # out of memory
            failure, _ = explain(error)
        origin = self._store.origins.get(seal.name, "")
        return Sealing(seal.name, labels, seal.letter, seal.size, meta, data, failure, origin)

    def _unseal(self, name: int, payload: memoryview) -> None:
        """With a value or without, the name stands for this alone, and for one object."""
        self._meter.check_room_for(name)
        found = self._owner.unseal(payload)
        self._store.drop(name)
        self._store.label(name, frozenset(found.labels))
        failure = found.failure or WITHOUT_VALUE
        try:
            if found.meta is not None:
                found.meta.check()
                memory = allocate(len(found.value))
                memory[:] = found.value
                self._store.objects[name] = tensor_of(found.meta, memory)
                return
        except Exception as error:  # out of memory
            failure, _ = explain(error)
        self._store.poisoned[name] = Poison(Failure(-name, "move", failure, ""))

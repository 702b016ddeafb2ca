"""The owner of the data, as a session sees it: whoever says what may leave. By default nothing may."""

from typing import Final

from ptrtensor.errors import PermissionDeniedError
from ptrtensor.wire.control import Asking, Bytes, Collected, Reading, Sealing, Unsealed
from ptrtensor.wire.messages import Release
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.store import PUBLIC, Labels

NO_MOVES = "private values move between workers of `ptrtensor serve` only"
NO_REQUESTS = "this worker takes no requests; one of `ptrtensor serve` does"

TOO_MANY_OBJECTS: Final = "an object too many"
TOO_MUCH_MEMORY: Final = "more memory than there is"
NO_SUCH_OBJECT: Final = "an object that is not here"


class Owner:
    """Grants nothing and decides nothing."""

    def check_reading(self, reading: Reading) -> None:
        """Whether a client may have this of a private object.

        :raises PermissionDeniedError: it may not; the message says why, and how to ask.
        """
        self.deny(reading)

    def deny(self, reading: Reading) -> None:
        """:raises PermissionDeniedError: in any case."""
        labels = frozenset(reading.labels)
        raise PermissionDeniedError(f"{private(reading.what, labels)}: its owner has not allowed it to leave")

    def note_denial(
        self,
        what: str,
        name: int | None = None,
        labels: Labels = PUBLIC,
        operation: str = "",
        meta: TensorMeta | None = None,
    ) -> None:
        """A client is told that it does not get this. Nothing that it is not told belongs here [P11.4]."""

    def check_operation(self, op: str, labels: Labels) -> None:
        """:raises PermissionDeniedError: it may not be run on what was computed from these."""

    def check_consumption(self, operations: int) -> None:
        """So many more were run. :raises QuotaExceededError: no more may be."""

    def is_open(self, labels: Labels) -> bool:
        """Whether all may be read, as much as a client likes: then nothing is hidden from it."""
        return False

    def ask(self, asking: Asking) -> list[Release]:
        """:raises PermissionDeniedError: it may not even be asked for."""
        raise PermissionDeniedError(NO_REQUESTS)

    def releases(self) -> list[Release]:
        """What the client asked for."""
        return []

    def collect(self, id: str) -> Collected:
        """:raises PermissionDeniedError: it is not approved."""
        raise PermissionDeniedError(NO_REQUESTS)

    def invite(self) -> bytes:
        """A letter for whoever may seal a value for this session. :raises PermissionDeniedError: there is none."""
        raise PermissionDeniedError(NO_MOVES)

    def seal(self, sealing: Sealing) -> Bytes:
        """:raises PermissionDeniedError: it may not move there."""
        raise PermissionDeniedError(NO_MOVES)

    def unseal(self, box: Bytes) -> Unsealed:
        """:raises PermissionDeniedError: it cannot be opened."""
        raise PermissionDeniedError(NO_MOVES)


def private(what: str, labels: Labels) -> str:
    return f"{what} is private, since it was computed from {', '.join(sorted(labels))}"

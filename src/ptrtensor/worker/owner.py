"""The owner of the data, as a session sees it: whoever says what may leave. By default nothing may."""

from ptrtensor.errors import PermissionDeniedError
from ptrtensor.wire.control import Asking, Bytes, Collected, Reading, Sealing, Unsealed
from ptrtensor.wire.messages import Release
from ptrtensor.worker.store import Labels

NO_MOVES = "private values move between workers of `ptrtensor serve` only"
NO_REQUESTS = "this worker takes no requests; one of `ptrtensor serve` does"


class Owner:
    """Grants nothing and decides nothing."""

    def check_reading(self, reading: Reading) -> None:
        """Whether a client may have this of a private object.

        :raises PermissionDeniedError: it may not; the message says why, and how to ask.
        """
        self.deny(reading.what, frozenset(reading.labels))

    def deny(self, what: str, labels: Labels) -> None:
        """:raises PermissionDeniedError: in any case."""
        raise PermissionDeniedError(f"{private(what, labels)}: its owner has not allowed it to leave")

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

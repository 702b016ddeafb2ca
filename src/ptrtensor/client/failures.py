"""Failures that the worker reported and nobody has seen yet."""

from collections import deque
from typing import Final

from ptrtensor.client.callsite import CallSite
from ptrtensor.errors import REMOTE_ERRORS, RemoteOpError
from ptrtensor.wire.limits import MAX_FAILURE_TEXT
from ptrtensor.wire.messages import Failure

MAX_UNSEEN: Final = 100
"""Failures kept with their texts until somebody waits; of further ones only the number."""

MAX_FAILED_SITES: Final = 1000
"""Lines kept of what failed, for the errors of values that hang on it."""


class Failures:
    """Each failure is raised once on its own account, and every time a value is asked that hangs on it."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._sites: dict[int, CallSite] = {}
        """Who issued what: by the sequence number of a command, by the name of a value that was put, negated [P4]."""
        self._puts: deque[tuple[int, int]] = deque()
        self._failed_sites: dict[int, CallSite] = {}
        self._unseen: dict[int, Failure | None] = {}
        self._seen_early: set[int] = set()
        """What was raised before its acknowledgement came, which will tell of it once more [P8.5]."""
        self._acknowledged = 0

    def issued(self, sequence: int, site: CallSite) -> None:
        self._sites[sequence] = site

    def put(self, name: int, sequence: int, site: CallSite) -> None:
        """A value was put, before the command with this sequence number."""
        self._sites[-name] = site
        self._puts.append((sequence, -name))

    def acknowledge(self, sequence: int, failures: list[Failure]) -> None:
        """Forget the lines of what has run; keep those of what failed."""
        for failure in map(cut, failures):
            self._keep(failure)
            if len(self._unseen) < MAX_UNSEEN:
                self._unseen[failure.sequence] = failure
            else:
                self._unseen.setdefault(failure.sequence, None)
            if failure.sequence in self._seen_early:  # asked behind, not before: another thread may be raising it
                self._unseen.pop(failure.sequence)
        for done in range(self._acknowledged, sequence):
            self._forget_site(done)
        while self._puts and self._puts[0][0] < sequence:
            self._forget_site(self._puts.popleft()[1])
        self._acknowledged = sequence

    def _forget_site(self, sequence: int) -> None:
        self._sites.pop(sequence, None)
        self._seen_early.discard(sequence)

    def error(self, failure: Failure) -> RemoteOpError:
        """The error to raise; it counts as seen from now on."""
        error = self._error(cut(failure))
        if failure.sequence in self._sites:
            self._seen_early.add(failure.sequence)
        self._unseen.pop(failure.sequence, None)
        return error

    def _error(self, failure: Failure) -> RemoteOpError:
        self._keep(failure)
        site = self._failed_sites.get(failure.sequence)
        issued = f"\n  issued by {site}" if site is not None else ""
        kind = REMOTE_ERRORS.get(failure.error.partition(":")[0], RemoteOpError)
        error = kind(f"{failure.operation} failed at worker {self._worker}: {failure.error}{issued}")
        if failure.traceback:
            error.add_note(f"The worker's traceback:\n{failure.traceback.rstrip()}")
        return error

    def raise_unseen(self) -> None:
        """Raise one error for all that nobody saw: the first, with the others named in a note."""
        sequences = list(self._unseen)
        unseen = [self._unseen.get(sequence) for sequence in sequences]
        if not unseen:
            return
        told = [self._error(failure) for failure in [failure for failure in unseen if failure is not None][:6]]
        first, *others = told or [
            RemoteOpError(f"operations failed at worker {self._worker}, whose texts were not kept")
        ]
        for other in others:
            first.add_note(f"Also: {other}")
        more = len(unseen) - len(told)
        if more:
            first.add_note(f"and {more} more failures")
        try:
            raise first
        finally:
            # Not before: interrupted until here, the error is still there to be seen.
            self.forget(sequences)

    def forget(self, sequences: list[int] | None = None) -> None:
        """These count as seen, or all that failed so far."""
        for sequence in list(self._unseen) if sequences is None else sequences:
            self._unseen.pop(sequence, None)

    def _keep(self, failure: Failure) -> None:
        site = self._sites.get(failure.sequence)
        if site is not None:
            self._failed_sites[failure.sequence] = site
            if len(self._failed_sites) > MAX_FAILED_SITES:
                seen = (known for known in self._failed_sites if self._unseen.get(known) is None)
                del self._failed_sites[next(seen)]


def cut(failure: Failure) -> Failure:
    """With texts no longer than they may be [P3.1]."""
    return Failure(
        failure.sequence,
        failure.operation[:MAX_FAILURE_TEXT],
        failure.error[:MAX_FAILURE_TEXT],
        failure.traceback[-MAX_FAILURE_TEXT:],
    )

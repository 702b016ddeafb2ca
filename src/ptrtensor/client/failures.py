"""Failures that the worker reported and nobody has seen yet."""

import threading
from collections import deque
from typing import Final

from ptrtensor.client.callsite import CallSite
from ptrtensor.errors import REMOTE_ERRORS, RemoteOpError
from ptrtensor.wire.limits import MAX_FAILURE_TEXT
from ptrtensor.wire.messages import Failure

MAX_UNSEEN: Final = 100
"""Failures kept with their texts until somebody waits."""

MAX_FURTHER: Final = 10_000
"""Of so many it is known which they are, so that what is raised for a value is not told again: more than can be in
flight. Of those beyond only the number is known.
"""

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
        self._unseen: dict[int, Failure] = {}
        self._further: set[int] = set()
        """Which others nobody saw."""
        self._more = 0
        """How many beyond those."""
        self._seen_early: set[int] = set()
        """What was raised before its acknowledgement came, which will tell of it once more [P8.5]."""
        self._newest = -1
        """The last command of whose failure was told. They come in order: what comes twice is not new [P7.2]."""
        self._acknowledged = 0
        self._lock = threading.Lock()  # never held for long: over what is kept here, which is not much

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
            with self._lock:
                self._take(failure)
        for done in range(self._acknowledged, sequence):
            self._forget_site(done)
        while self._puts and self._puts[0][0] < sequence:
            self._forget_site(self._puts.popleft()[1])
        self._acknowledged = sequence

    def _forget_site(self, sequence: int) -> None:
        self._sites.pop(sequence, None)
        self._seen_early.discard(sequence)

    def _take(self, failure: Failure) -> None:
        sequence = failure.sequence
        if 0 <= sequence <= self._newest:
            return
        if not (sequence in self._seen_early or sequence in self._unseen or sequence in self._further):
            if len(self._unseen) < MAX_UNSEEN:
                self._unseen[sequence] = failure
            elif len(self._further) < MAX_FURTHER:
                self._further.add(sequence)
            else:
                self._more += 1
        # After the count there is no call: an interruption falls before both or behind both.
        self._newest = sequence if sequence > self._newest else self._newest

    def error(self, failure: Failure) -> RemoteOpError:
        """The error to raise; it counts as seen from now on."""
        error = self._error(cut(failure))
        with self._lock:
            self._see(failure.sequence)
        return error

    def _see(self, sequence: int) -> None:
        if sequence in self._sites:
            self._seen_early.add(sequence)
        self._unseen.pop(sequence, None)
        self._further.discard(sequence)

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
        if not (self._unseen or self._further or self._more):
            return  # before the lock: see `forget`
        with self._lock:
            unseen, further, beyond = self._unseen.copy(), self._further.copy(), self._more
        count = len(unseen) + len(further) + beyond
        told = [self._error(failure) for failure in list(unseen.values())[:6]]
        first, *others = told or [
            RemoteOpError(f"operations failed at worker {self._worker}, whose texts were not kept")
        ]
        for other in others:
            first.add_note(f"Also: {other}")
        if count > len(told):
            first.add_note(f"and {count - len(told)} more failures")
        try:
            raise first
        finally:
            # Not before: interrupted until here, the error is still there to be seen.
            self._tell(unseen, further, beyond)

    def _tell(self, unseen: dict[int, Failure], further: set[int], beyond: int) -> None:
        """These count as seen; there may be others by now."""
        with self._lock:
            self._unseen = {sequence: left for sequence, left in self._unseen.items() if sequence not in unseen}
            self._further = self._further - further
            self._more = max(0, self._more - beyond)

    def forget(self) -> None:
        """All that failed so far counts as seen. Without the lock: in a forked child nobody may give it back."""
        self._unseen, self._further, self._more = {}, set(), 0

    def _keep(self, failure: Failure) -> None:
        site = self._sites.get(failure.sequence)
        if site is None:
            return
        with self._lock:
            self._failed_sites[failure.sequence] = site
            if len(self._failed_sites) > MAX_FAILED_SITES:
                seen = (known for known in self._failed_sites if known not in self._unseen)
                del self._failed_sites[next(seen)]


def cut(failure: Failure) -> Failure:
    """With texts no longer than they may be [P3.1]."""
    return Failure(
        failure.sequence,
        failure.operation[:MAX_FAILURE_TEXT],
        failure.error[:MAX_FAILURE_TEXT],
        failure.traceback[-MAX_FAILURE_TEXT:],
    )

"""What a client may use in a day, and what the process of one of its sessions used of it."""

import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import Final

from ptrtensor.errors import AuditError, PtrTensorError
from ptrtensor.owner.policy import QuotaRule
from ptrtensor.owner.state import State, StateError
from ptrtensor.wire.control import Consumption

log: Final = logging.getLogger("ptrtensor.serve")

GRACE_SECONDS: Final = 10.0
"""Of processor time, past those of a day: for a client that fetches what it has. Then its sessions end."""

NOT_WRITTEN: Final = "the worker cannot write down what it does, so it does nothing"


class Allowance:
    """Of one session; all of a client's draw from the same days."""

    def __init__(
        self, quota: QuotaRule, state: State | None, client: str, session: str, exceeded: Callable[[str], None]
    ) -> None:
        """`exceeded` writes a line of the audit log, once for each kind of what there is no more of.

        :raises AuditError: from `exceeded`, if it cannot.
        """
        self._quota = quota
        self._state = state
        self._client = client
        self._session = session
        self._note_exceeded = exceeded
        self._exceeded: set[str] = set()
        self._counting = threading.Lock()
        self._told = self._counted = 0.0
        """Seconds of this session: those that its process told of, and those that were counted."""
        self._looked: float | None = None

    def use(self, amounts: Mapping[str, tuple[float, float | None]]) -> str:
        """Count all of these, each within its limit, or none; returns the one that is too much, or nothing.

        :raises PtrTensorError: there is no state to count in.
        """
        if self._state is None:
            raise PtrTensorError(
                "the worker cannot count what leaves: its owner keeps no state (ptrtensor serve --state)"
            )
        return self._state.use(self._client, amounts)

    def consume(self, consumption: Consumption) -> str:
        """What was done was done: it counts, and no more is done once it is too much; returns of what there is none.

        :raises PtrTensorError: it cannot be counted.
        """
        if not 0 <= consumption.seconds < math.inf:
            raise PtrTensorError(f"{consumption.seconds} seconds cannot be counted")
        self._told += consumption.seconds
        self._count(consumption.operations, self._told)
        return self._used_up()

    def look(self, seconds: float) -> str:
        """Why there must be no session, or no more of it, now that its process has computed for so long; empty where
        there may. What the process does not tell of, since it has no time to or since it lies, counts as well.
        """
        try:
            limit = self._quota.seconds_per_day
            if limit is None or seconds == self._looked:
                return ""
            self._looked = seconds
            self._count(0, seconds)
            if seconds:
                self._used_up()
            if not self.use({"seconds": (0, limit + GRACE_SECONDS)}):
                return ""
        except AuditError:
            return NOT_WRITTEN
        except StateError as error:
            self._report(error)
            return ""
        return "the owner of the worker grants you no more seconds today, and you used more than those"

    def _count(self, operations: int, seconds: float) -> None:
        """So many operations more, and so many seconds in all."""
        with self._counting:
            more = max(0.0, seconds - self._counted)
            if operations or more:
                self.use({"operations": (operations, None), "seconds": (more, None)})
            self._counted += more

    def _used_up(self) -> str:
        """What of a day is used up; empty where nothing is."""
        quota = self._quota
        exceeded = self.use({"operations": (0, quota.operations_per_day), "seconds": (0, quota.seconds_per_day)})
        if exceeded and exceeded not in self._exceeded:
            self._exceeded.add(exceeded)
            self._note_exceeded(exceeded)
        return exceeded

    # --- crashes: whether a session crashes can be made to depend on private values, and each tells a bit of them

    def count_crash(self) -> None:
        self._crashes(1, None)

    def crashed_too_often(self) -> str:
        """Why there must be no session; empty where there may."""
        most = self._quota.crashes_per_day
        if not self._crashes(0, most - 1):
            return ""
        return f"{most} of your sessions crashed today: there are no more until tomorrow (UTC); ask the owner how"

    def _crashes(self, more: int, limit: int | None) -> bool:
        """Count them, where there is a state that can be written; whether that is too much."""
        if self._state is None:
            return False
        try:
            return bool(self.use({"crashes": (more, limit)}))
        except StateError as error:
            self._report(error)
            return False

    def _report(self, error: StateError) -> None:
        log.error("the state cannot be used", extra={"session": self._session, "reason": str(error)})

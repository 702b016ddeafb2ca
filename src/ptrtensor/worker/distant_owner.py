"""The owner behind `ptrtensor serve`: the session's process asks the server over its control channel."""

import math
import os
import queue
import threading
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from ptrtensor.errors import PermissionDeniedError, QuotaExceededError
from ptrtensor.tally import Tally
from ptrtensor.wire.control import (
    DENIALS_TOLD_SINGLY,
    KINDS_OF_DENIALS,
    MOST,
    Answer,
    Asking,
    Boxed,
    Bytes,
    Collected,
    Collecting,
    Consumption,
    Denial,
    Filed,
    FromServer,
    Grant,
    Invited,
    Inviting,
    Listing,
    Offence,
    Question,
    Reading,
    Sealing,
    Unsealed,
    Unsealing,
    Verdict,
)
from ptrtensor.wire.messages import Release, told
from ptrtensor.wire.metadata import TensorMeta
from ptrtensor.worker.channel import Channel
from ptrtensor.worker.owner import Owner, private
from ptrtensor.worker.store import PUBLIC, Labels

COUNT_SECONDS: Final = 0.5

MAX_KINDS: Final = 1000
"""Of operations that are remembered as forbidden or not."""

MAX_NAME_CHARACTERS: Final = 100
"""Of an operation or a request, as the client calls it."""

INSTEAD: Final = "let nothing depend on values (multiply by a mask, torch.where, torch.linalg.inv_ex and its kin)"


class DistantOwner(Owner):
    """Answers by itself what the grants say, and asks for the rest."""

    def __init__(self, channel: Channel[FromServer], grants: Mapping[str, Grant], *, metered: bool) -> None:
        self._channel = channel
        self._grants = dict(grants)
        self._metered = metered
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._denials = Tally(self._tell_denial, singly=DENIALS_TOLD_SINGLY, kinds=KINDS_OF_DENIALS)
        self._forbidden: dict[tuple[str, Labels], str] = {}
        self._operations = 0
        self._next_count = -math.inf  # at once: whether anything is left of the day
        self._seconds = time.process_time()
        self._counting = threading.Lock()
        self._exceeded = ""

    # --- what the server says

    def hear(self, answer: Answer) -> None:
        """The answer to the question that waits. Called by whoever listens to the server."""
        self._answers.put(answer)

    def _ask(self, question: Question) -> Answer:
        with self._asking:
            tell(self._channel, question)
            return self._answers.get()

    def say_goodbye(self) -> None:
        """Tell what was not told yet, and wait for no answer: also the thread may that listens to the server."""
        self._denials.tell()
        if self._metered:
            tell(self._channel, self._consumption())

    def _deny(self, denial: Denial) -> None:
        self._denials.add(denial.kind, denial)

    def _tell_denial(self, denial: Denial, count: int) -> None:
        tell(self._channel, msgspec.structs.replace(denial, count=count))

    def note_offence(self, reason: str) -> None:
        """The client is about to be refused."""
        tell(self._channel, Offence(told(reason)))

    # --- reading

    def is_open(self, labels: Labels) -> bool:
        return all(
            (grant := self._grants.get(label)) and grant.read == "always" and not grant.limited for label in labels
        )

    def check_reading(self, reading: Reading) -> None:
        what, labels = reading.what, frozenset(reading.labels)
        for label in reading.labels:
            grant = self._grants.get(label, Grant())
            if grant.read != "always":
                self._deny(reading.denial)
                way = "ask for it with .request(reason)" if grant.read == "ask" else "it cannot be asked for either"
                raise PermissionDeniedError(
                    f'{private(what, labels)}; {grant.rule} says read = "{grant.read}" for {label}: {way}'
                )
        verdict = self._ask(reading)
        if not isinstance(verdict, Verdict) or verdict.against:
            self._deny(reading.denial)
            raise PermissionDeniedError(f"{private(what, labels)}: {against(verdict)}")

    def deny(self, reading: Reading) -> None:
        self._deny(reading.denial)
        labels = frozenset(reading.labels)
        label = next(one for one in sorted(labels) if not self.is_open(frozenset((one,))))
        grant = self._grants.get(label, Grant())
        limit = " with a limit" if grant.limited else ""
        way = f"{INSTEAD}, or ask for a value with .request(reason)" if grant.read == "ask" else INSTEAD
        raise PermissionDeniedError(
            f'{private(reading.what, labels)}; {grant.rule} says read = "{grant.read}"{limit} for {label}: {way}'
        )

    def note_denial(
        self,
        what: str,
        name: int | None = None,
        labels: Labels = PUBLIC,
        operation: str = "",
        meta: TensorMeta | None = None,
    ) -> None:
        tensor, size = ("", None) if meta is None else (str(meta), min(meta.nbytes, MOST))
        operation = operation[:MAX_NAME_CHARACTERS]
        self._deny(Denial(what, tuple(sorted(labels)), 1, name, operation, tensor, size))

    def ask(self, asking: Asking) -> list[Release]:
        never = [label for label in asking.labels if self._grants.get(label, Grant()).read == "never"]
        if never:
            self._deny(asking.denial)
            rule = self._grants.get(never[0], Grant()).rule
            raise PermissionDeniedError(f'{never[0]} may not be read, nor asked for: {rule} says read = "never"')
        answer = self._ask(asking)
        if not isinstance(answer, Filed):
            self._deny(asking.denial)
        return self._filed(answer)

    def releases(self) -> list[Release]:
        return self._filed(self._ask(Listing()))

    def collect(self, id: str) -> Collected:
        answer = self._ask(Collecting(id))
        if not isinstance(answer, Collected):
            self._deny(Denial("what was asked for", request=id[:MAX_NAME_CHARACTERS]))
            raise PermissionDeniedError(f"request {id[:80]}: {against(answer)}")
        return answer

    def invite(self) -> bytes:
        answer = self._ask(Inviting())
        if not isinstance(answer, Invited):
            self._deny(Denial("to receive what moves"))
            raise PermissionDeniedError(against(answer))
        return answer.letter

    def seal(self, sealing: Sealing) -> Bytes:
        answer = self._ask(sealing)
        if not isinstance(answer, Boxed):
            tensor = "" if sealing.meta is None else str(sealing.meta)
            denial = Denial("to move", sealing.labels, 1, sealing.name, sealing.operation, tensor, sealing.size)
            self._deny(denial)
            raise PermissionDeniedError(against(answer))
        return answer.box

    def unseal(self, box: Bytes) -> Unsealed:
        answer = self._ask(Unsealing(box))
        if not isinstance(answer, Unsealed):
            self._deny(Denial("to receive what moves", size=len(box)))
            raise PermissionDeniedError(against(answer))
        self._grants.update(answer.grants)
        return answer

    def _filed(self, answer: Answer) -> list[Release]:
        if not isinstance(answer, Filed):
            raise PermissionDeniedError(against(answer))
        return answer.releases

    # --- computing

    def check_operation(self, op: str, labels: Labels) -> None:
        against = self._forbidden.get((op, labels))
        if against is None:
            if len(self._forbidden) >= MAX_KINDS:
                self._forbidden.clear()
            against = self._forbidden[op, labels] = self._against(op.partition(".")[0], labels)
        if against:
            raise PermissionDeniedError(against)

    def _against(self, op: str, labels: Labels) -> str:
        for label in sorted(labels):
            grant = self._grants.get(label, Grant())
            if not is_one_of(op, grant.operations) or is_refused(op, grant.refused):
                return f"{op} may not be run on what was computed from {label}: {grant.rule} does not allow it"
        return ""

    def check_consumption(self, operations: int) -> None:
        self._operations += operations
        if time.monotonic() > self._next_count:
            self._count()
        if self._exceeded:
            raise QuotaExceededError(self._exceeded)

    def _count(self) -> None:
        verdict = self._ask(self._consumption())
        self._exceeded = verdict.against if isinstance(verdict, Verdict) else ""
        self._next_count = time.monotonic() + COUNT_SECONDS

    def _consumption(self) -> Consumption:
        """What was not told yet."""
        with self._counting:
            seconds = time.process_time()
            used = Consumption(self._operations, seconds - self._seconds)
            self._operations, self._seconds = 0, seconds
        return used


def tell(channel: Channel[FromServer], question: Question) -> None:
    """The server has the log and the rules; without it nothing goes on."""
    try:
        channel.send(question)
    except OSError:
        os._exit(0)


def against(answer: Answer) -> str:
    return answer.against if isinstance(answer, Verdict) else "the server gave no answer to that"


def is_one_of(op: str, patterns: tuple[str, ...]) -> bool:
    """A pattern without a namespace is about torch's main one; `*` is about all."""
    return any(
        pattern == "*" or fnmatchcase(op, pattern if "::" in pattern else f"aten::{pattern}") for pattern in patterns
    )


def is_refused(op: str, patterns: tuple[str, ...]) -> bool:
    """Also under the names that torch has for the same: `linalg_svd` arrives as `_linalg_svd`, `neg_` is in place."""
    namespace, _, name = op.partition("::")
    names = {name, name.lstrip("_"), name.rstrip("_"), name.strip("_")}
    return any(is_one_of(f"{namespace}::{one}", patterns) for one in names)

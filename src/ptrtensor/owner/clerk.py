"""Answers what a session's process asks of its owner: by the policy, what was used today, and the owner's decisions.

The process runs what a client wants, so nothing that it says is taken on trust: the rules are looked up here.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Final, assert_never

from ptrtensor.errors import AuditError, PtrTensorError
from ptrtensor.owner.allowance import NOT_WRITTEN, Allowance
from ptrtensor.owner.decisions import record_decisions
from ptrtensor.owner.policy import Policy, Rule
from ptrtensor.owner.requests import Request, Requests
from ptrtensor.owner.sealing import Content, Sealer
from ptrtensor.owner.state import State, StateError
from ptrtensor.tally import Tally
from ptrtensor.transport.tls import Peer
from ptrtensor.wire.control import (
    DENIALS_TOLD_SINGLY,
    KINDS_OF_DENIALS,
    Answer,
    Asking,
    Boxed,
    Bytes,
    Collected,
    Collecting,
    Consumption,
    Denial,
    Filed,
    Invited,
    Inviting,
    Listing,
    Offence,
    Publication,
    Question,
    Reading,
    Sealing,
    Unsealed,
    Unsealing,
    Verdict,
)
from ptrtensor.wire.limits import MAX_LABEL_CHARACTERS, MAX_LABELS, MAX_MOVED_BYTES

log: Final = logging.getLogger("ptrtensor.serve")

Record = Callable[..., None]

MAX_FAILURE_CHARACTERS: Final = 500
MAX_OFFENCE_CHARACTERS: Final = 500
ROOM_BYTES: Final = 8192
"""For what stands in a box beside the value."""

NOT_KEPT: Final = "the worker's state cannot be used at the moment"


class Clerk:
    """For one session."""

    def __init__(
        self,
        policy: Policy,
        publications: Mapping[str, Publication],
        state: State | None,
        peer: Peer,
        session: str,
        sealer: Sealer,
        record: Record,
    ) -> None:
        """`publications` are all there are: what was computed from one that this client is not shown may come to it
        from another worker. `record` writes a line of the audit log.

        :raises AuditError: from `record`, if it cannot.
        """
        self._policy = policy
        self._publications = publications
        self._requests = None if state is None else Requests(state)
        self._peer = peer
        self._session = session
        self._sealer = sealer
        self._record = record
        self._foreign: set[str] = set()
        """Labels of what came from other workers in this session."""
        quota = policy.quota_for(peer.name)
        self._allowance = Allowance(quota, state, peer.name, session, self._note_used_up)
        self.offence = ""
        """Why the client was refused; empty where it was not."""
        self._denials = Tally(self._deny, singly=DENIALS_TOLD_SINGLY, kinds=KINDS_OF_DENIALS)
        self._receipts = Tally(self._receive)

    def answer(self, question: Question) -> Answer | None:
        """The answer; None to what only tells something."""
        try:
            return self._answer(question)
        except AuditError:
            return Verdict(NOT_WRITTEN)
        except StateError as error:
            log.error("the state cannot be used", extra={"session": self._session, "reason": str(error)})
            return Verdict(NOT_KEPT)
        except PtrTensorError as error:
            return Verdict(str(error))
        except Exception as error:  # unanswered, the session would wait for ever
            log.exception("a session's question met an error", extra={"session": self._session})
            return Verdict(f"the worker met an error of its own: {type(error).__name__}")

    def admit(self) -> str:
        """Why its client may begin no session now; empty where it may."""
        return self._allowance.crashed_too_often() or self.look(0.0)

    def look(self, seconds: float) -> str:
        """Why there must be no session, or no more of it, now that its process has computed for so long; empty where
        there may.
        """
        return self._allowance.look(seconds)

    def close(self, seconds: float, crashed: bool = False) -> None:
        """The session is over, and its process computed for so long: write down what was not yet."""
        if crashed:
            self._allowance.count_crash()
        self.look(seconds)
        with contextlib.suppress(AuditError):
            self._denials.tell()
            self._receipts.tell()

    def _answer(self, question: Question) -> Answer | None:
        match question:
            case Denial():
                self._denials.add(question.kind, question, times=max(1, question.count))
                return None
            case Offence(reason):
                self.offence = reason[:MAX_OFFENCE_CHARACTERS]
                return None
            case Reading():
                return self._read(question)
            case Consumption():
                exceeded = self._allowance.consume(question)
                return Verdict(f"the owner of the worker grants you no more {exceeded} today" if exceeded else "")
            case Asking():
                return Filed([self._ask(question).release])
            case Listing():
                return Filed([request.release for request in self._kept.of(self._peer)])
            case Collecting(id):
                return self._collect(id)
            case Inviting():
                return Invited(self._sealer.letter(self._session))
            case Sealing():
                return self._seal(question)
            case Unsealing(box):
                return self._unseal(box)
            case _:
                assert_never(question)

    @property
    def _kept(self) -> Requests:
        """:raises PtrTensorError: this server keeps none."""
        if self._requests is None:
            raise PtrTensorError("this worker takes no requests: its owner keeps no state (ptrtensor serve --state)")
        return self._requests

    def _note(self, event: str, **fields: object) -> None:
        self._record(event, session=self._session, client=self._peer.name, **fields)

    def _deny(self, denial: Denial, count: int) -> None:
        told = {
            "request": denial.request,
            "object": denial.name,
            "objects": denial.labels,
            "operation": denial.operation,
            "tensor": denial.tensor,
            "bytes": denial.size,
        }
        known = {name: value for name, value in told.items() if value not in (None, "", ())}
        self._note("denied", what=denial.what, **known, count=count)

    def _note_used_up(self, what: str) -> None:
        self._note("quota used up", what=what)

    def _receive(self, sender: str, labels: tuple[str, ...], size: int, count: int) -> None:
        self._note("received", objects=labels, sender=sender, bytes=size, count=count)

    # --- reading

    def _rules(self, labels: tuple[str, ...]) -> dict[str, Rule]:
        """The rule for each of these."""
        found = {}
        for label in labels:
            found[label] = self._policy.rule_for(self._peer.name, self._tags(label))[1]
        return found

    def _rule_of(self, label: str) -> str:
        """What to call its rule."""
        return self._policy.grant(self._peer.name, self._tags(label)).rule

    def _closed(self, rules: dict[str, Rule], labels: list[str]) -> str:
        """These, and why they are."""
        return ", ".join(f'{label} ({self._rule_of(label)} says read = "{rules[label].read}")' for label in labels)

    def _tags(self, label: str) -> tuple[str, ...]:
        """Of what came from another worker the label is the tag."""
        publication = self._publications.get(label)
        return (label,) if publication is None else publication.tags

    def _read(self, reading: Reading) -> Verdict:
        rules = self._rules(reading.labels)
        closed = [label for label, rule in rules.items() if rule.read != "always"]
        if closed or not rules:
            return Verdict(f"{self._closed(rules, closed)} may not be read")
        amounts: dict[str, tuple[float, float | None]] = {}
        for label, rule in rules.items():
            if rule.elements_per_day is not None:
                amounts[f"elements of {label}"] = (reading.elements, rule.elements_per_day)
            if rule.bytes_per_day is not None:
                amounts[f"bytes of {label}"] = (reading.size, rule.bytes_per_day)
        if amounts and (exceeded := self._allowance.use(amounts)):
            unit, _, label = exceeded.partition(" of ")
            return Verdict(
                f"{self._rule_of(label)} releases no more than {amounts[exceeded][1]:.0f} {unit} a day of what was "
                f"computed from {label}, and this would be more: ask for less, or tomorrow (UTC)"
            )
        self._note(
            "released",
            what=reading.what,
            object=reading.name,
            objects=reading.labels,
            operation=reading.operation,
            tensor=reading.tensor,
            elements=reading.elements,
            bytes=reading.size,
        )
        return Verdict()

    # --- requests

    def _ask(self, asking: Asking) -> Request:
        rules = self._rules(asking.labels)
        never = [label for label, rule in rules.items() if rule.read == "never"]
        if never or not asking.labels:
            self._denials.add(asking.denial.kind, asking.denial)
            raise PtrTensorError(f"{self._closed(rules, never)} may not be read, nor asked for")
        with self._kept.recording:  # no decision has its line before
            request = self._kept.file(self._peer, self._session, asking)
            self._note(
                "requested",
                request=request.id,
                object=asking.name,
                objects=asking.labels,
                operation=asking.operation,
                tensor=request.tensor,
                bytes=len(asking.value),
                reason=asking.reason,
            )
        return request

    def _collect(self, id: str) -> Collected:
        record_decisions(self._kept, self._record)
        request = self._kept.collect(self._peer, id)
        self._note(
            "released",
            request=id,
            object=request.object,
            objects=request.labels,
            operation=request.operation,
            tensor=request.tensor,
            bytes=len(request.value),
            decider=request.decider,
        )
        return Collected(request.meta, request.value, request.failure)

    # --- moves

    def _seal(self, sealing: Sealing) -> Boxed:
        """[P13.2]"""
        addressee = self._sealer.addressee(sealing.letter)
        for label, rule in self._rules(sealing.labels).items():
            goes_home = label in self._foreign and label.startswith(f"{addressee}:")
            if addressee not in rule.move_to and not goes_home:
                raise PtrTensorError(
                    f"what was computed from {label} may not move to {addressee}: {self._rule_of(label)} does not name "
                    "it in move_to"
                )
        if not sealing.labels:
            raise PtrTensorError("it is not private: move it as it is")
        if not 0 <= sealing.size <= MAX_MOVED_BYTES:
            raise PtrTensorError(f"{sealing.size} bytes cannot move at once: {MAX_MOVED_BYTES} are the most")
        if len(sealing.labels) > MAX_LABELS or max(map(len, sealing.labels)) > MAX_LABEL_CHARACTERS:
            raise PtrTensorError(
                f"what was computed from more than {MAX_LABELS} publications cannot move, nor from one whose name has "
                f"more than {MAX_LABEL_CHARACTERS} characters"
            )
        content = Content(sealing.labels, sealing.meta, sealing.value, sealing.failure[:MAX_FAILURE_CHARACTERS])
        room = sealing.size + sum(map(len, sealing.labels)) + ROOM_BYTES
        box = self._sealer.seal(sealing.letter, content, room)
        self._note(
            "moved",
            object=sealing.name,
            objects=sealing.labels,
            operation=sealing.operation,
            to=addressee,
            bytes=sealing.size,
        )
        return Boxed(box)

    def _unseal(self, box: Bytes) -> Unsealed:
        """[P13.3]: what others call theirs has their name before it here."""
        sender, content = self._sealer.open(box, self._session, self._policy.receive_from)
        own = f"{self._sealer.name}:"
        labels = tuple(
            label.removeprefix(own) if label.startswith(own) else f"{sender}:{label}" for label in content.labels
        )
        self._foreign.update(label for label in labels if label not in self._publications)
        grants = {label: self._policy.grant(self._peer.name, self._tags(label)) for label in labels}
        self._receipts.add((sender, labels), sender, labels, len(content.value))
        return Unsealed(labels, grants, content.meta, content.value, content.failure)

"""A request for release as its client has it: it asks the worker for every status, and waits no longer than it says."""

import time
from collections.abc import Callable
from typing import cast

import pytest
import torch

from ptrtensor._torch.memory import bytes_of, meta_of
from ptrtensor.client.client import Client
from ptrtensor.errors import ObjectNotFoundError, ProtocolError, PtrTensorError
from ptrtensor.tensor.release import ReleaseRequest, ask_release, releases
from ptrtensor.wire.limits import MAX_REASON_CHARACTERS
from ptrtensor.wire.messages import (
    AskRelease,
    ClientMessage,
    CollectRelease,
    ListReleases,
    Release,
    Releases,
    Status,
    Value,
    WorkerMessage,
)


def release(status: Status = "pending", answer: str = "", id: str = "1f") -> Release:
    return Release(id, status, "for a paper", "2026-01-01T00:00:00+00:00", answer)


class Answering:
    """In place of a client: gives these answers, one after the other, the last again and again."""

    worker = "bob"

    def __init__(self, *answers: WorkerMessage, payload: bytes = b"") -> None:
        self._answers = list(answers)
        self._payload = bytearray(payload)
        self.sent: list[ClientMessage] = []

    def request(
        self, make: Callable[[int], ClientMessage], kind: type[WorkerMessage]
    ) -> tuple[WorkerMessage, memoryview]:
        self.sent.append(make(7))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        assert isinstance(answer, kind)
        return answer, memoryview(self._payload)


def request(*answers: WorkerMessage, payload: bytes = b"") -> tuple[ReleaseRequest, Answering]:
    client = Answering(*answers, payload=payload)
    return ReleaseRequest(cast(Client, client), release()), client


def test_it_says_what_was_asked() -> None:
    asked, client = request(Releases(1, []))
    assert (asked.id, asked.reason, asked.answer) == ("1f", "for a paper", "")
    assert repr(asked) == "<ReleaseRequest 1f at bob: pending>" and client.sent == []


@pytest.mark.parametrize("status", ["pending", "approved", "denied", "collected"])
def test_a_status_is_the_worker_s(status: Status) -> None:
    asked, client = request(Releases(1, [release(id="2e"), release(status, "well")]))
    assert asked.status == status and asked.answer == "well" and repr(asked).endswith(f"{status}>")
    assert client.sent == [ListReleases(7)]


def test_one_that_the_worker_knows_nothing_of() -> None:
    asked, _ = request(Releases(1, [release(id="2e")]))
    with pytest.raises(ObjectNotFoundError, match="worker bob knows of no request 1f of yours any more"):
        _ = asked.status


def test_a_decision_is_waited_for() -> None:
    asked, client = request(*[Releases(1, [release()])] * 3, Releases(1, [release("denied", "no")]))
    assert asked.wait(20.0, poll_seconds=0.01) == "denied" and asked.answer == "no"
    assert len(client.sent) == 4


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.05])
def test_but_no_longer_than_was_said(seconds: float) -> None:
    asked, client = request(Releases(1, [release()]))
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="the owner of worker bob has not decided about request 1f"):
        asked.wait(seconds, poll_seconds=60.0)
    assert time.monotonic() - began < 30, "though it looks once in a minute"
    assert len(client.sent) == (1 if seconds <= 0 else 2)


@pytest.mark.parametrize("value", [torch.tensor([[1.5, 2.0]]), torch.tensor(3), torch.zeros(0, 2)])
def test_a_value_arrives(value: torch.Tensor) -> None:
    asked, client = request(Value(7, meta_of(value)), payload=bytes(bytes_of(value)))
    found = asked.get()
    assert found.equal(value) and found.dtype is value.dtype
    assert client.sent == [CollectRelease(7, "1f")]


def test_a_worker_that_sends_a_number_breaks_the_rules() -> None:
    asked, _ = request(Value(7, scalar=1.0))
    with pytest.raises(ProtocolError, match="worker bob sent no tensor"):
        asked.get()


def test_asking() -> None:
    client = Answering(Releases(1, [release()]))
    assert ask_release(cast(Client, client), 5, 8, "x" * MAX_REASON_CHARACTERS).id == "1f"
    assert client.sent == [AskRelease(7, 5, "x" * MAX_REASON_CHARACTERS)]
    assert releases(cast(Client, client)) == [release()]


@pytest.mark.parametrize("reason", ["", " \n", "x" * (MAX_REASON_CHARACTERS + 1), "\ud800", 7, None, b"x"])
def test_reasons_that_are_none(reason: object) -> None:
    client = Answering(Releases(1, [release()]))
    with pytest.raises((PtrTensorError, TypeError)):
        ask_release(cast(Client, client), 5, 8, cast(str, reason))
    assert client.sent == []

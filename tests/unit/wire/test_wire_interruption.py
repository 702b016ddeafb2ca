"""Ctrl-C between any two steps of the connection loses no message; at worst one comes twice [P7.3]."""

from collections.abc import Callable

import pytest
from interrupting import interrupted
from wire_samples import FROM_CLIENT, FROM_WORKER, Sample, content, frame

from ptrtensor.errors import ProtocolError
from ptrtensor.wire.connection import Connection, Event, client_connection, worker_connection
from ptrtensor.wire.messages import Annotate, ClientMessage, Put, WorkerMessage
from ptrtensor.wire.metadata import TensorMeta

Either = Connection[ClientMessage] | Connection[WorkerMessage]

LARGE: list[Sample] = [
    FROM_CLIENT[0],
    (Annotate(1, (), "x" * 300_000), b""),
    (Put(1, TensorMeta((300_000,), (1,), "uint8")), b"y" * 300_000),
    *FROM_CLIENT[1:4],
]

SCENES: list[tuple[str, Callable[[], Either], list[Sample], int]] = [
    ("client's messages", worker_connection, FROM_CLIENT, 300),
    ("client's messages at once", worker_connection, FROM_CLIENT, 10**6),
    ("worker's messages", client_connection, FROM_WORKER, 200),
    ("worker's messages at once", client_connection, FROM_WORKER, 10**6),
    ("large messages", worker_connection, LARGE, 100_000),
]


class Feeder:
    """The shell around a connection, which can be called again after an interruption."""

    def __init__(self, connection: Either, data: bytes, size: int) -> None:
        self.connection = connection
        self._data = data
        self._size = size
        self._position = 0

    def run(self) -> None:
        self.connection.advance()
        while self._position < len(self._data):
            target = self.connection.buffer()
            chunk = self._data[self._position :][: min(len(target), self._size)]
            target[: len(chunk)] = chunk
            self._position += len(chunk)
            self.connection.arrived.append(len(chunk))
            self.connection.advance()

    def events(self) -> list[object]:
        """What arrived, less what arrived twice in a row."""
        events: list[Event[ClientMessage] | Event[WorkerMessage]] = list(self.connection.events)
        once = [event for place, event in enumerate(events) if place == 0 or event is not events[place - 1]]
        return [(content(event.message), bytes(event.payload)) for event in once]


@pytest.mark.parametrize(
    ("end", "samples", "size"), [scene[1:] for scene in SCENES], ids=[scene[0] for scene in SCENES]
)
def test_no_interruption_loses_a_message(end: Callable[[], Either], samples: list[Sample], size: int) -> None:
    data = b"".join(frame(*sample) for sample in samples)
    expected = [(content(message), payload) for message, payload in samples]
    wrong: list[str] = []
    at = 0
    happened = True
    while happened:
        at += 1
        feeder = Feeder(end(), data, size)
        happened = interrupted(feeder.run, at, "wire/connection.py")
        try:
            feeder.run()
        except ProtocolError as error:
            wrong.append(f"place {at}: {error}")
            continue
        if feeder.events() != expected:
            wrong.append(f"place {at}: other events")
    assert at > 50
    assert not wrong


def test_an_interrupted_error_is_raised_again() -> None:
    at = 0
    happened = True
    while happened:
        at += 1
        feeder = Feeder(worker_connection(), frame(*FROM_CLIENT[0]) + b"x" * 16, 10**6)
        try:
            happened = interrupted(feeder.run, at, "wire/connection.py")
        except ProtocolError:
            break
        with pytest.raises(ProtocolError):
            feeder.run()
    assert at > 10

"""What a session's process prints is a few lines of the log, however much it is."""

import logging
import os
from collections.abc import Iterator
from io import BufferedReader

import pytest

from ptrtensor.owner.printed_lines import PrintedLines

SECONDS = 20.0


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "ptrtensor.serve"):
        yield caplog


def printed(data: bytes) -> PrintedLines:
    """All of it, by a process that has ended."""
    reading, writing = os.pipe()
    stream = os.fdopen(reading, "rb")
    assert isinstance(stream, BufferedReader)
    lines = PrintedLines(stream, 7)
    lines.session = "1f"
    with open(writing, "wb") as end:
        end.write(data)
    lines.join(SECONDS)
    assert stream.closed
    return lines


def test_lines_have_the_number_of_the_session(log: pytest.LogCaptureFixture) -> None:
    printed(b"[W Resize.cpp:30] Warning\n\n  at \xff\nthe end")
    assert [record.__dict__["text"] for record in log.records] == [
        "[W Resize.cpp:30] Warning",
        "  at \ufffd",
        "the end",
    ]
    for record in log.records:
        assert record.message == "a session's process printed"
        assert (record.__dict__["session"], record.__dict__["pid"]) == ("1f", 7)


def test_many_are_counted(log: pytest.LogCaptureFixture) -> None:
    printed(b"again\n" * 100_000)
    assert len(log.records) == 21 and log.records[-1].message == "a session's process printed more"
    assert log.records[-1].__dict__["lines"] == 100_000 - 20


def test_a_long_one_is_bounded(log: pytest.LogCaptureFixture) -> None:
    printed(b"x" * 10_000_000 + b"\n")
    assert sum(len(record.__dict__.get("text", "")) for record in log.records) == 20_000
    assert len(log.records) == 21


def test_nothing_is_nothing(log: pytest.LogCaptureFixture) -> None:
    printed(b"")
    assert log.records == []

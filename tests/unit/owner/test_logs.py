"""The log of a server: a line of JSON for each event, whatever the event holds."""

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ptrtensor.owner.logs import JsonFormatter, log_to_standard_error


def formatted(record: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def record(
    message: str = "session began", *args: object, level: int = logging.INFO, **extra: object
) -> logging.LogRecord:
    return logging.getLogger("ptrtensor.serve").makeRecord(
        "ptrtensor.serve", level, __file__, 1, message, args, None, extra=extra
    )


def test_an_event_is_its_time_level_and_message() -> None:
    line = formatted(record())
    assert list(line) == ["time", "level", "event"]
    assert (line["level"], line["event"]) == ("info", "session began")
    time = datetime.fromisoformat(str(line["time"]))
    assert time.tzinfo is not None and abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_what_was_given_along_is_part_of_the_line() -> None:
    line = formatted(record(session="1f", seconds=1.5, client=None))
    assert {name: line[name] for name in list(line)[3:]} == {"session": "1f", "seconds": 1.5, "client": None}


def test_arguments_are_filled_in() -> None:
    assert formatted(record("%s of %d", "one", 2))["event"] == "one of 2"


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "\0\x1b[31m", "ü\u2028", "\ud800"])
def test_a_peer_cannot_write_a_line_of_its_own(text: str) -> None:
    line = formatted(record(text, client=text))
    assert line["event"] == line["client"] == text


def test_what_json_does_not_know_is_written_as_text() -> None:
    line = formatted(record(reason=ValueError("no"), names={"a"}, raw=b"x"))
    assert (line["reason"], line["names"], line["raw"]) == ("no", "{'a'}", "b'x'")


def test_an_error_has_its_traceback_in_the_same_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        found = record(level=logging.ERROR)
        found.exc_info = sys.exc_info()
    line = formatted(found)
    assert line["level"] == "error"
    assert str(line["error"]).startswith("Traceback") and str(line["error"]).endswith("ValueError: broken")


def test_another_handler_s_format_leaves_nothing_behind() -> None:
    found = record(client="alice")
    logging.Formatter("%(asctime)s %(message)s").format(found)
    assert list(formatted(found)) == ["time", "level", "event", "client"]


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """The logger of ptrtensor, which is as it was after the test."""
    logger = logging.getLogger("ptrtensor")
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_events_go_to_standard_error(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_standard_error()
    logging.getLogger("ptrtensor.serve").info("session began", extra={"client": "alice"})
    logging.getLogger("ptrtensor.serve").debug("not shown")
    logging.getLogger("another").error("not ours")
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert json.loads(line)["event"] == "session began" and json.loads(line)["client"] == "alice"

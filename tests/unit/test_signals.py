"""The signals that ask for the end: the first ends what runs, in good order, and what must not be cut is not."""

import signal

import pytest

from ptrtensor.cli.signals import ENDING, Signals


@pytest.mark.parametrize("number", ENDING)
def test_the_first_ends_what_runs_and_another_does_not_disturb_what_is_put_away(number: int) -> None:
    before = {one: signal.getsignal(one) for one in ENDING}
    steps = []
    with Signals():
        try:
            steps.append("begun")
            signal.raise_signal(number)
            steps.append("went on")
        finally:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
            steps.append("put away")
    assert steps == ["begun", "put away"]
    assert {one: signal.getsignal(one) for one in ENDING} == before


def test_what_is_held_back_comes_after() -> None:
    steps = []
    with Signals() as signals:
        with signals.held_back():
            signal.raise_signal(signal.SIGTERM)
            steps.append("whole")
        steps.append("went on")
    assert steps == ["whole"]


def test_where_the_end_has_come_none_is_raised() -> None:
    steps = []
    with Signals() as signals:
        with signals.held_back():
            steps.append("begun")
        signals.ignore()
        signal.raise_signal(signal.SIGTERM)
        steps.append("put away")
    assert steps == ["begun", "put away"]


def test_what_goes_wrong_is_told() -> None:
    with pytest.raises(ZeroDivisionError), Signals() as signals, signals.held_back():
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_nohup_is_obeyed() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

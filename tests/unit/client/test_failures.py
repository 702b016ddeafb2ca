"""Failures: whose line they show, and how often they are raised."""

import pytest
from at_once import together

from ptrtensor.client.callsite import CallSite
from ptrtensor.client.client import MAX_IN_FLIGHT
from ptrtensor.client.failures import MAX_FAILED_SITES, MAX_FURTHER, MAX_UNSEEN, Failures
from ptrtensor.errors import RemoteOpError
from ptrtensor.wire.limits import MAX_FAILURE_TEXT
from ptrtensor.wire.messages import NO_COMMAND, Failure


def site(line: int) -> CallSite:
    return CallSite(site.__code__, line)


def failure(sequence: int) -> Failure:
    return Failure(sequence, f"operation {sequence}", "reason", "")


def test_a_command_and_a_put_before_it_each_have_their_line() -> None:
    failures = Failures("bob")
    failures.put(3, 0, site(10))
    failures.issued(0, site(20))
    failures.acknowledge(1, [failure(-3), failure(0)])
    with pytest.raises(RemoteOpError, match=r"(?s)operation -3.*line 10, ") as caught:
        failures.raise_unseen()
    (note,) = caught.value.__notes__
    assert "operation 0" in note and "line 20, " in note
    failures.raise_unseen()


def test_lines_of_what_went_well_are_forgotten() -> None:
    failures = Failures("bob")
    for name in range(1, 5):
        failures.put(name, 0, site(name))
    failures.issued(0, site(0))
    failures.acknowledge(0, [])
    assert len(failures._sites) == 5
    failures.acknowledge(1, [])
    assert not failures._sites and not failures._puts


def test_an_error_that_was_raised_counts_as_seen() -> None:
    failures = Failures("bob")
    failures.acknowledge(1, [failure(0)])
    assert "operation 0 failed at worker bob: reason" in str(failures.error(failure(0)))
    failures.raise_unseen()


@pytest.mark.parametrize("sequence", [0, -3])
def test_what_was_raised_before_it_was_acknowledged_is_not_told_again(sequence: int) -> None:
    """An answer may come early, and that to a value that was put comes before any acknowledgement."""
    failures = Failures("bob")
    failures.put(3, 0, site(10))
    failures.issued(0, site(20))
    assert "test_failures.py" in str(failures.error(failure(sequence)))
    failures.acknowledge(1, [failure(sequence)])
    failures.raise_unseen()
    failures.error(failure(sequence))
    assert not failures._seen_early


def test_of_a_long_text_no_more_is_kept_than_it_may_have() -> None:
    failures = Failures("bob")
    long = Failure(0, *("x" * (3 * MAX_FAILURE_TEXT) for _ in range(3)))
    failures.acknowledge(1, [long])
    kept = failures._unseen[0]
    assert kept is not None
    assert [len(text) for text in (kept.operation, kept.error, kept.traceback)] == [MAX_FAILURE_TEXT] * 3
    assert len(str(failures.error(long))) < 3 * MAX_FAILURE_TEXT


def test_what_is_of_no_command_is_not_taken_for_the_first() -> None:
    failures = Failures("bob")
    failures.issued(0, site(20))
    failures.acknowledge(1, [failure(0)])
    assert "issued by" not in str(failures.error(Failure(NO_COMMAND, "search", "reason", "")))
    with pytest.raises(RemoteOpError, match=r"(?s)operation 0.*line 20, "):
        failures.raise_unseen()


def test_of_very_many_only_the_number_is_kept() -> None:
    failures = Failures("bob")
    failures.acknowledge(MAX_UNSEEN + 20, [failure(sequence) for sequence in range(MAX_UNSEEN + 20)])
    with pytest.raises(RemoteOpError, match="operation 0 ") as caught:
        failures.raise_unseen()
    assert caught.value.__notes__[-1] == f"and {MAX_UNSEEN + 20 - 6} more failures"
    failures.raise_unseen()


def test_those_whose_texts_are_not_kept_are_told_of_too() -> None:
    failures = Failures("bob")
    everything = [failure(sequence) for sequence in range(MAX_UNSEEN + 20)]
    failures.acknowledge(len(everything), everything)
    for seen in everything[:MAX_UNSEEN]:
        failures.error(seen)
    with pytest.raises(RemoteOpError, match="texts were not kept") as caught:
        failures.raise_unseen()
    assert caught.value.__notes__ == ["and 20 more failures"]
    failures.raise_unseen()


def test_what_was_seen_is_not_among_the_many() -> None:
    failures = Failures("bob")
    everything = [failure(sequence) for sequence in range(MAX_UNSEEN + 20)]
    failures.acknowledge(len(everything), everything)
    failures.acknowledge(len(everything), everything)  # the same again
    for seen in everything:
        failures.error(seen)
    failures.raise_unseen()


def test_in_a_long_run_no_more_is_kept_than_in_a_short_one() -> None:
    failures = Failures("bob")
    count = 3 * MAX_FURTHER
    for sequence in range(count):
        failures.issued(sequence, site(sequence))
        for _ in range(2):
            failures.acknowledge(sequence + 1, [failure(sequence)])
    assert (len(failures._unseen), len(failures._further)) == (MAX_UNSEEN, MAX_FURTHER)
    assert len(failures._failed_sites) == MAX_FAILED_SITES and not failures._sites
    with pytest.raises(RemoteOpError, match="operation 0 ") as caught:
        failures.raise_unseen()
    assert caught.value.__notes__[-1] == f"and {count - 6} more failures"
    failures.raise_unseen()


def test_as_many_as_can_be_in_flight_are_known_one_by_one() -> None:
    assert MAX_FURTHER > MAX_IN_FLIGHT
    failures = Failures("bob")
    everything = [failure(sequence) for sequence in range(MAX_IN_FLIGHT)]
    failures.acknowledge(MAX_IN_FLIGHT, everything)
    for seen in reversed(everything):
        failures.error(seen)
    failures.raise_unseen()


def test_one_of_the_many_is_seen_once_however_often_it_is_raised() -> None:
    failures = Failures("bob")
    everything = [failure(sequence) for sequence in range(MAX_UNSEEN + 20)]
    failures.acknowledge(len(everything), everything)
    for seen in 5 * everything[:-1]:
        failures.error(seen)
    with pytest.raises(RemoteOpError, match="texts were not kept") as caught:
        failures.raise_unseen()
    assert caught.value.__notes__ == ["and 1 more failures"]


def test_what_was_seen_and_comes_again_is_not_told() -> None:
    """A batch that went out twice is answered twice [P7.2]."""
    failures = Failures("bob")
    for sequence in range(4):
        failures.issued(sequence, site(sequence))
    failures.error(failure(0))
    for _ in range(2):
        failures.acknowledge(2, [failure(0), failure(1)])
        failures.error(failure(1))
    failures.raise_unseen()
    failures.acknowledge(4, [failure(3)])
    with pytest.raises(RemoteOpError, match="operation 3 ") as caught:
        failures.raise_unseen()
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("how", ["told", "forgotten"])
def test_what_is_raised_again_hides_nothing_that_failed_since(how: str) -> None:
    failures = Failures("bob")
    count = 3 * MAX_UNSEEN
    before, since = ([failure(first + place) for place in range(count)] for first in (0, count))
    failures.acknowledge(count, before)
    if how == "told":
        with pytest.raises(RemoteOpError):
            failures.raise_unseen()
    else:
        failures.forget()
    failures.raise_unseen()
    failures.acknowledge(2 * count, since)
    for seen in before:
        failures.error(seen)
    with pytest.raises(RemoteOpError, match=f"operation {count} ") as caught:
        failures.raise_unseen()
    assert caught.value.__notes__[-1] == f"and {count - 6} more failures"


def test_of_many_values_that_were_put_each_is_seen_by_itself() -> None:
    failures = Failures("bob")
    everything = [failure(-name) for name in range(1, MAX_UNSEEN + 20)]
    for name in range(1, MAX_UNSEEN + 20):
        failures.put(name, 0, site(name))
    failures.acknowledge(1, everything)
    for seen in everything[:-1]:
        failures.error(seen)
    failures.error(failure(-100_000))  # a value that could not be fetched: nobody else tells of that
    with pytest.raises(RemoteOpError, match="texts were not kept") as caught:
        failures.raise_unseen()
    assert caught.value.__notes__ == ["and 1 more failures"]


def test_several_threads_raise_while_another_takes_in(impatient: None) -> None:
    failures = Failures("bob")
    count = 4 * MAX_FAILED_SITES
    for sequence in range(count):
        failures.issued(sequence, site(sequence))

    def act(place: int) -> None:
        for sequence in range(count):
            if place == 0:
                failures.acknowledge(sequence, [failure(sequence)])
            elif sequence % 3 == place - 1:
                failures.error(failure(sequence))

    together(act, 4)
    assert len(failures._failed_sites) == MAX_FAILED_SITES
    failures.raise_unseen()


def test_the_line_of_what_is_raised_is_kept() -> None:
    failures = Failures("bob")
    count = MAX_FAILED_SITES + 200
    for sequence in range(count):
        failures.issued(sequence, site(sequence))
    failures.acknowledge(count, [failure(sequence) for sequence in range(count)])
    with pytest.raises(RemoteOpError, match="line 0, "):
        failures.raise_unseen()
    assert len(failures._failed_sites) == MAX_FAILED_SITES

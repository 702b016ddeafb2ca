"""What was used of a day counts, whoever tells of it, and then there is no more."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ptrtensor.errors import AuditError, PtrTensorError
from ptrtensor.owner.allowance import GRACE_SECONDS, Allowance
from ptrtensor.owner.policy import QuotaRule
from ptrtensor.owner.state import State
from ptrtensor.wire.control import Consumption

QUOTA = QuotaRule(operations_per_day=10, seconds_per_day=5, crashes_per_day=2)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path / "state.sqlite")
    yield made
    made.close()


@pytest.fixture
def exceeded() -> list[str]:
    """What was written down."""
    return []


@pytest.fixture
def begin(state: State, exceeded: list[str]) -> Callable[..., Allowance]:
    """The allowance of one more session."""

    def begun(quota: QuotaRule = QUOTA, client: str = "alice") -> Allowance:
        return Allowance(quota, state, client, "session", exceeded.append)

    return begun


Begin = Callable[..., Allowance]


def test_what_was_done_counts_and_then_no_more_is_done(begin: Begin, exceeded: list[str]) -> None:
    one, other = begin(), begin()
    assert one.consume(Consumption(10, 1.0)) == ""
    assert one.consume(Consumption(1, 0.5)) == "operations"
    assert other.consume(Consumption(0, 0.0)) == "operations"
    assert one.consume(Consumption(1, 0.5)) == "operations"
    assert exceeded == ["operations"] * 2, "once for each session"


def test_seconds(begin: Begin) -> None:
    assert begin().consume(Consumption(1, 5.0)) == ""
    assert begin().consume(Consumption(1, 0.1)) == "seconds"
    assert begin(QuotaRule(), "carol").consume(Consumption(1000, 1000.0)) == ""


@pytest.mark.parametrize("used", [Consumption(-10, 0.0), Consumption(0, -5.0), Consumption(0, float("nan"))])
def test_a_process_that_lies_about_what_it_used(begin: Begin, used: Consumption) -> None:
    assert begin().consume(Consumption(11, 5.0)) == "operations"
    with pytest.raises(PtrTensorError, match="cannot be counted"):
        begin().consume(used)
    assert begin().consume(Consumption(0, 0.0)) == "operations"


def test_what_the_server_sees_counts_and_what_it_was_told_does_not_count_twice(
    begin: Begin, exceeded: list[str]
) -> None:
    one = begin()
    assert one.consume(Consumption(1, 1.0)) == one.look(1.5) == one.look(3.0) == ""
    assert one.consume(Consumption(1, 2.0)) == "", "three in all, as it saw"
    assert one.look(4.5) == ""
    assert one.consume(Consumption(1, 2.1)) == "seconds"
    assert one.look(5.2) == "" and exceeded == ["seconds"]


def test_who_goes_on_past_the_seconds_of_a_day_has_no_session(begin: Begin, exceeded: list[str]) -> None:
    one = begin()
    assert one.look(5.0 + GRACE_SECONDS) == ""
    assert "no more seconds today" in one.look(5.1 + GRACE_SECONDS)
    assert "no more seconds today" in begin().look(0.0) and begin(QuotaRule(), "carol").look(1000.0) == ""
    assert exceeded == ["seconds"]


def test_crashes(begin: Begin) -> None:
    begin().count_crash()
    assert begin().crashed_too_often() == ""
    begin().count_crash()
    assert "2 of your sessions crashed today" in begin().crashed_too_often()
    assert begin(client="carol").crashed_too_often() == ""


def test_amounts_are_counted_all_or_none(begin: Begin) -> None:
    one = begin()
    assert one.use({"a": (1, 1), "b": (2, 1)}) == "b"
    assert one.use({"a": (1, 1), "b": (1, 1)}) == ""
    assert begin().use({"a": (1, 1)}) == "a"


def test_without_a_state() -> None:
    """Nothing is counted: what has a limit is not used, and there are no limits of a day."""
    alone = Allowance(QuotaRule(), None, "alice", "session", print)
    alone.count_crash()
    assert alone.crashed_too_often() == alone.look(1000.0) == ""
    with pytest.raises(PtrTensorError, match="keeps no state"):
        alone.use({"elements of x": (1, 1)})


def test_a_state_that_cannot_be_written_is_the_owners_to_mend(begin: Begin, state: State) -> None:
    """Sessions go on, and what asks to be counted is refused where it is asked."""
    state._database.execute("PRAGMA query_only = ON")
    one = begin()
    assert one.look(1.0) == one.crashed_too_often() == ""
    one.count_crash()
    with pytest.raises(PtrTensorError, match="cannot be used"):
        one.consume(Consumption(1, 0.0))


def test_an_audit_log_that_cannot_be_written_ends_the_session(state: State) -> None:
    def full(what: str) -> None:
        raise AuditError("the disk is full")

    assert "cannot write down" in Allowance(QUOTA, state, "alice", "session", full).look(6.0)
